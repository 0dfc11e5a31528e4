//! Tables for people.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// A table without lines; the columns named in `right` are set to the right.
pub fn print(header: &[&str], right: &[usize], rows: Vec<Vec<String>>) {
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
    for line in table.lines() {
        super::line(line.trim_end());
    }
}

/// Bytes in a unit people read.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes;
    let mut unit = 0;
    while value >= 1024 * 1024 && unit + 1 < UNITS.len() {
        value >>= 10;
        unit += 1;
    }
    // One digit behind the point, cut rather than rounded up.
    format!("{}.{} {}", value / 1024, (value % 1024) * 10 / 1024, UNITS[unit])
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_are_readable() {
        let shown: Vec<_> = [0, 1023, 1024, 1536, 1 << 20, (1 << 30) - 1, 16 << 40]
            .into_iter()
            .map(super::size)
            .collect();
        let want =
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "1023.9 MiB", "16.0 TiB"];
        assert_eq!(shown, want);
    }
}
