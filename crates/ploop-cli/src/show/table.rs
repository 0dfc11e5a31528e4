//! Tables for people.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// A table without lines; the columns named in `right` are set to the right.
pub fn print(header: &[&str], right: &[usize], rows: Vec<Vec<String>>) {
    lines(header, right, rows).iter().for_each(super::line);
}

/// The lines of such a table.
pub fn lines(header: &[&str], right: &[usize], rows: Vec<Vec<String>>) -> Vec<String> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.to_vec());
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
        if right.contains(&column.index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect()
}
