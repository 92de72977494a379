//! Columns for the terminal.

use std::fmt::Write;

/// Lays rows out in columns under a head, two spaces apart; the last column is not padded.
pub(super) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = head.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    line(&mut text, &widths, &head.map(str::to_owned));
    for row in rows {
        line(&mut text, &widths, row);
    }
    text
}

fn line(text: &mut String, widths: &[usize], cells: &[String]) {
    let mut row = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        // Writing to a `String` cannot fail.
        let _ok = write!(row, "{cell:<width$}  ");
    }
    text.push_str(row.trim_end());
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let text = table(["name", "n"], &[["gateway".to_owned(), "1".to_owned()]]);
        assert_eq!(text, "name     n\ngateway  1\n");
    }
}
