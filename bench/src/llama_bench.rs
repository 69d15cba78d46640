//! llama.cpp's `llama-bench`: its command and the figures in its JSON.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::llama_cpp::LlamaPrograms;

/// Work of a run.
pub struct Work {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens to generate.
    pub new_tokens: u32,
    /// Threads to compute with.
    pub threads: usize,
}

/// Figures of a run.
#[derive(Debug, PartialEq)]
pub struct Figures {
    /// Tokens of the prompt per second.
    pub prompt: f64,
    /// Generated tokens per second.
    pub generation: f64,
    /// Model name of the processor.
    pub cpu: String,
}

/// Returns the command that reads a prompt, and generates without it, with the GGUF file `model`.
pub fn command(programs: &LlamaPrograms, model: &Path, work: &Work) -> Command {
    let prompt = work.prompt_tokens.to_string();
    bench(programs, model, work, &["-p", &prompt])
}

/// Returns the command that generates after the prompt.
pub fn command_after_prompt(programs: &LlamaPrograms, model: &Path, work: &Work) -> Command {
    let prompt = work.prompt_tokens.to_string();
    bench(programs, model, work, &["-p", "0", "-d", &prompt])
}

fn bench(programs: &LlamaPrograms, model: &Path, work: &Work, prompt: &[&str]) -> Command {
    let mut command = programs.bench();
    command.arg("-m").arg(model).args(["-t", &work.threads.to_string()]);
    command.args(prompt).args(["-n", &work.new_tokens.to_string(), "-r", "1", "-o", "json"]);
    command
}

/// Reads the rate of generation in the JSON of [`command_after_prompt`].
pub fn generation(output: &str, work: &Work) -> Result<f64> {
    rate(&tests(output)?, 0, work.new_tokens)
}

/// Reads the figures in the JSON of [`command`].
pub fn figures(output: &str, work: &Work) -> Result<Figures> {
    let tests = tests(output)?;
    let cpu = tests.first().and_then(|test| test["cpu_info"].as_str()).unwrap_or("unknown").to_owned();
    Ok(Figures {
        prompt: rate(&tests, work.prompt_tokens, 0)?,
        generation: rate(&tests, 0, work.new_tokens)?,
        cpu,
    })
}

/// Reads the JSON among the lines that `llama-bench` printed.
fn tests(output: &str) -> Result<Vec<Value>> {
    let json = array(output).with_context(|| format!("llama-bench printed no JSON:\n{output}"))?;
    serde_json::from_str(json)
        .with_context(|| format!("llama-bench printed something among its JSON:\n{output}"))
}

/// Returns the lines from the one that opens the array to the one that closes it.
fn array(output: &str) -> Option<&str> {
    let start = if output.starts_with('[') { 0 } else { output.find("\n[")? + 1 };
    let end = output.rfind("\n]")? + 2;
    output.get(start..end)
}

/// Returns the tokens per second of the test that read and generated so many tokens.
fn rate(tests: &[Value], prompt_tokens: u32, new_tokens: u32) -> Result<f64> {
    let test = tests.iter().find(|test| test["n_prompt"] == prompt_tokens && test["n_gen"] == new_tokens);
    test.and_then(|test| test["avg_ts"].as_f64()).with_context(|| {
        format!("llama-bench has no rate of {prompt_tokens} tokens read and {new_tokens} generated")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORK: Work = Work { prompt_tokens: 16, new_tokens: 4, threads: 2 };

    #[test]
    fn rates_are_read() -> Result<()> {
        let output = r#"warning: a line before
[
  {
    "cpu_info": "AMD EPYC",
    "n_prompt": 16,
    "n_gen": 0,
    "avg_ts": 3.965257,
    "samples_ts": [ 3.96526 ]
  },
  {
    "cpu_info": "AMD EPYC",
    "n_prompt": 0,
    "n_gen": 4,
    "avg_ts": 15.301596,
    "samples_ts": [ 15.3016 ]
  }
]
a line after
"#;
        let expected = Figures { prompt: 3.965_257, generation: 15.301_596, cpu: "AMD EPYC".to_owned() };
        assert_eq!(figures(output, &WORK)?, expected);
        Ok(())
    }

    #[test]
    fn missing_rates_are_errors() {
        let error = |output: &str| figures(output, &WORK).map_err(|error| format!("{error:#}")).unwrap_err();
        assert!(error("cannot open model\n").contains("no JSON"));
        assert!(error("[\n{ \"n_prompt\"\nnoise\n]\n").contains("among its JSON"));
        let other = "[\n{ \"n_prompt\": 512, \"n_gen\": 0, \"avg_ts\": 1.0 }\n]\n";
        assert!(error(other).contains("no rate of 16 tokens read and 0 generated"));
    }
}
