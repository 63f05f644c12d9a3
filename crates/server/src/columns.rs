//! Lists: for people columns below each other, for programs a JSON array with one item a line.

use std::io::{self, Write};

use serde::Serialize;

use crate::printable::printable;

/// A JSON array under way; nothing if it is not wanted.
pub(crate) struct JsonLines {
    wanted: bool,
    items: usize,
}

impl JsonLines {
    /// An array without items.
    pub(crate) fn new(wanted: bool) -> Self {
        Self { wanted, items: 0 }
    }

    /// Writes one more item.
    pub(crate) fn item(&mut self, out: &mut impl Write, item: &impl Serialize) -> io::Result<()> {
        let before = if self.items == 0 { "[\n" } else { ",\n" };
        self.items += 1;
        write!(out, "{before}{}", serde_json::to_string(item)?)
    }

    /// Writes the end.
    pub(crate) fn end(self, out: &mut impl Write) -> io::Result<()> {
        match self.items {
            _ if !self.wanted => Ok(()),
            0 => writeln!(out, "[]"),
            _ => writeln!(out, "\n]"),
        }
    }
}

/// Writes rows, each cell as wide as the widest of its column. Cells may have been written by users.
pub(crate) fn write_columns<const N: usize>(
    out: &mut impl Write,
    rows: &[[String; N]],
) -> io::Result<()> {
    let harmless = |row: &[String; N]| row.each_ref().map(|cell| printable(cell));
    let rows: Vec<[String; N]> = rows.iter().map(harmless).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    for row in rows {
        let cells = row.iter().zip(widths);
        let padded: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        writeln!(out, "{}", padded.join("  ").trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let rows = [["A", "", "C"], ["aä", "b", ""], ["", "bbb", "c"]];
        let rows = rows.map(|row| row.map(String::from)).to_vec();
        let mut out = Vec::new();
        write_columns(&mut out, &rows).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "A        C\naä  b\n    bbb  c\n");
    }

    #[test]
    fn a_cell_begins_no_line() {
        let mut out = Vec::new();
        write_columns(&mut out, &[["a\nb\u{202e}".into(), "c".into()]]).unwrap();
        assert_eq!(out, b"a\\nb\\u{202e}  c\n");
    }
}
