//! Tables for people, JSON for programs.

use crate::error::CliError;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Tables and lines for people
    Table,
    /// JSON for programs
    Json,
}

/// Writes a line to standard output.
pub(crate) fn line(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).map_err(|e| CliError::output(&e))
}

/// Writes bytes and a line's end to standard output.
pub(crate) fn raw_line(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.write_all(b"\n")).map_err(|e| CliError::output(&e))
}

/// Writes a value as JSON, indented.
pub(crate) fn json(value: &impl Serialize) -> Result<(), CliError> {
    line(&serde_json::to_string_pretty(value).map_err(|e| CliError::Failed(format!("the result cannot be written as JSON: {e}")))?)
}

/// Writes a value as JSON in one line.
pub(crate) fn json_line(value: &impl Serialize) -> Result<(), CliError> {
    line(&serde_json::to_string(value).map_err(|e| CliError::Failed(format!("the result cannot be written as JSON: {e}")))?)
}

/// Writes a table. Columns named in `right` hold numbers.
pub(crate) fn table(header: &[&str], right: &[&str], rows: Vec<Vec<String>>) -> Result<(), CliError> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(|h| h.to_uppercase()));
    for row in rows {
        table.add_row(row);
    }
    for (index, name) in header.iter().enumerate() {
        if let Some(column) = table.column_mut(index) {
            column.set_padding((0, 2));
            if right.contains(name) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    line(&table.trim_fmt())
}

/// Writes something as a table or as JSON.
pub(crate) fn show<T: Serialize>(format: Format, value: &T, as_table: impl FnOnce(&T) -> Result<(), CliError>) -> Result<(), CliError> {
    match format {
        Format::Json => json(value),
        Format::Table => as_table(value),
    }
}

/// Says something to a person without mixing it into the output.
pub(crate) fn note(text: &str) {
    eprintln!("{text}");
}

/// Whether a person watches standard error.
pub(crate) fn watched() -> bool {
    io::stderr().is_terminal()
}

/// Whether results go to a terminal too, where they show by themselves how far a command is.
pub(crate) fn results_watched() -> bool {
    io::stdout().is_terminal()
}

/// What a bar counts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Total {
    /// So many steps.
    Steps(u64),
    /// So many bytes.
    Bytes(u64),
    /// So many milliseconds; the bar's message tells what was done in them.
    Millis(u64),
    /// Nobody knows.
    Unknown,
}

/// A progress bar with the time that is left, when a person watches; hidden else.
pub(crate) fn progress(total: Total, what: &'static str) -> indicatif::ProgressBar {
    if !watched() {
        return indicatif::ProgressBar::hidden();
    }
    let (bar, template) = match total {
        Total::Steps(total) => (indicatif::ProgressBar::new(total), "{msg} {bar:30} {human_pos}/{human_len} {per_sec} {eta} left"),
        Total::Bytes(total) => (indicatif::ProgressBar::new(total), "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} left"),
        Total::Millis(total) => (indicatif::ProgressBar::new(total), "{bar:30} {percent}% {eta} left {msg}"),
        Total::Unknown => (indicatif::ProgressBar::new_spinner(), "{spinner} {msg} {human_pos} {per_sec} {elapsed}"),
    };
    // A template that can't be parsed leaves the default style, which does as well.
    if let Ok(style) = indicatif::ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.with_message(what)
}

/// Asks whether something that can't be undone shall be done.
pub(crate) fn confirmed(yes: bool, what: &str) -> Result<(), CliError> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(CliError::Usage(format!("{what} cannot be undone; pass --yes to do it")));
    }
    eprint!("{what} cannot be undone. Type yes to go on: ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(|e| CliError::Failed(format!("standard input cannot be read: {e}")))?;
    if answer.trim() == "yes" { Ok(()) } else { Err(CliError::Failed("nothing was changed".to_owned())) }
}
