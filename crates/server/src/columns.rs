//! Tables for people: columns below each other.

use std::io::{self, Write};

/// Writes rows, each cell as wide as the widest of its column.
pub(crate) fn write_columns<const N: usize>(
    out: &mut impl Write,
    rows: &[[String; N]],
) -> io::Result<()> {
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
}
