//! The part that all charts share: size, margins, axes and the words that describe the drawing.

use serde::Serialize;

use super::axis::Tick;

/// Frame of a chart, in pixels; `axes.svg` draws it.
#[derive(Debug, Serialize)]
pub struct Frame {
    /// Identifier of the chart, unique on a page together with `variant`.
    pub id: String,
    /// CSS class of the drawing: one variant per width of the page.
    pub variant: &'static str,
    /// Title of the drawing, for screen readers.
    pub title: String,
    /// Description of the drawing, for screen readers.
    pub description: String,
    /// Width of the drawing.
    pub width: f64,
    /// Height of the drawing.
    pub height: f64,
    /// Left end of the x axis.
    pub left: f64,
    /// Right end of the x axis.
    pub right: f64,
    /// Upper end of the y axis.
    pub top: f64,
    /// Lower end of the y axis.
    pub bottom: f64,
    /// Ticks of the x axis.
    pub x_ticks: Vec<Tick>,
    /// Ticks of the y axis.
    pub y_ticks: Vec<Tick>,
    /// Label of the x axis.
    pub x_label: &'static str,
    /// Label of the y axis; empty for none.
    pub y_label: &'static str,
}
