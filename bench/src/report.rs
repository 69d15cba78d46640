//! Results of a bench: ratios first, then the figures they come from.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::table;

/// Lines of cells; the first line is the header.
pub type Rows = Vec<Vec<String>>;

/// The result of one bench.
pub struct Report {
    /// Name of the bench.
    pub name: &'static str,
    /// Sentence that names the work, the input and the number of runs.
    pub title: String,
    /// Ratios of mixbit and its peers.
    pub ratios: Rows,
    /// Measured figures.
    pub rows: Rows,
    /// Remarks that a reader of the figures needs.
    pub notes: Vec<String>,
    /// All samples as JSON.
    pub facts: Value,
}

impl Report {
    /// Returns the report as Markdown.
    pub fn text(&self) -> String {
        let mut text = format!("## {}\n\n{}.\n", self.name, self.title);
        for rows in [&self.ratios, &self.rows] {
            if rows.len() > 1 {
                let _ = write!(text, "\n{}", table::markdown(rows));
            }
        }
        for note in &self.notes {
            let _ = write!(text, "\n{note}\n");
        }
        text
    }

    /// Returns the report as a JSON object with the bench's name.
    pub fn json(&self) -> Value {
        let mut value = json!({ "bench": self.name, "title": self.title });
        if let (Value::Object(value), Value::Object(facts)) = (&mut value, &self.facts) {
            value.extend(facts.clone());
        }
        value
    }
}

/// Returns a line of cells.
pub fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

/// Prints reports: with more than one, all their ratios come before all their figures.
pub fn print(reports: &[Report], as_json: bool) {
    if as_json {
        match reports {
            [only] => println!("{:#}", only.json()),
            _ => println!("{:#}", reports.iter().map(Report::json).collect::<Value>()),
        }
        return;
    }
    if reports.len() > 1 {
        for report in reports.iter().filter(|report| report.ratios.len() > 1) {
            println!("{}\n\n{}", report.name, table::markdown(&report.ratios));
        }
    }
    for report in reports {
        println!("{}", report.text());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_come_first() {
        let report = Report {
            name: "x",
            title: "Title".to_owned(),
            ratios: vec![row(&["peer / mixbit", "time"]), row(&["disk", "4.0x"])],
            rows: vec![row(&["", "seconds"]), row(&["peer", "8.0"]), row(&["mixbit", "2.0"])],
            notes: vec!["A note.".to_owned()],
            facts: json!({ "runs": 1 }),
        };
        let text = report.text();
        let order = ["## x", "Title.", "4.0x", "8.0", "A note."].map(|part| text.find(part));
        assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{text}");
        assert_eq!(report.json()["runs"], 1);
    }
}
