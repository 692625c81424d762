//! Tables that fit. The one flexible column wraps, or goes below its row; where
//! the others do not fit either, each row becomes a block of `name  value` lines.

use comfy_table::{Cell, ContentArrangement, presets};

use crate::console::Console;

pub(crate) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    /// The one column that may wrap, usually prose.
    flexible: Option<usize>,
}

/// In front of a cell that is below its row.
const BENEATH: &str = "    ";
/// A flexible column narrower than this is no use.
const LEAST_FLEXIBLE: usize = 20;

impl Table {
    pub(crate) fn new(header: impl IntoIterator<Item = &'static str>) -> Self {
        Self {
            header: header.into_iter().collect(),
            rows: Vec::new(),
            flexible: None,
        }
    }

    #[must_use]
    pub(crate) fn flexible(mut self, column: usize) -> Self {
        self.flexible = Some(column);
        self
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(crate) fn print(&self, out: &mut Console) -> std::io::Result<()> {
        use std::io::Write;

        let text = self.render(out.width());
        write!(out.data(), "{text}")
    }

    fn render(&self, width: Option<usize>) -> String {
        let natural: usize = self.widths().map(|width| width + 2).sum();
        match width {
            Some(width) if natural > width + 2 => {
                let Some(flexible) = self.flexible else {
                    return self.blocks(width);
                };
                let fixed = natural - self.widths().nth(flexible).unwrap_or(0);
                let words = self.rows.iter().flat_map(|row| row[flexible].split(' '));
                let longest = words.map(|word| word.chars().count()).max().unwrap_or(0);
                if fixed + longest.max(LEAST_FLEXIBLE) <= width {
                    self.table(Some(width))
                } else if fixed <= width + 4 {
                    self.beneath(flexible, width)
                } else {
                    self.blocks(width)
                }
            }
            _ => self.table(None),
        }
    }

    fn widths(&self) -> impl Iterator<Item = usize> + '_ {
        self.header.iter().enumerate().map(|(at, name)| {
            let cells = self.rows.iter().filter_map(|row| row.get(at));
            cells
                .map(|cell| cell.chars().count())
                .chain([name.len()])
                .max()
                .unwrap_or(0)
        })
    }

    fn table(&self, width: Option<usize>) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        table.force_no_tty();
        table.set_header(
            self.header
                .iter()
                .map(|name| Cell::new(name.to_uppercase())),
        );
        for row in &self.rows {
            table.add_row(row);
        }
        match width.and_then(|width| u16::try_from(width).ok()) {
            Some(width) => {
                table.set_content_arrangement(ContentArrangement::Dynamic);
                table.set_width(width);
                for (at, natural) in self.widths().enumerate() {
                    if Some(at) != self.flexible
                        && let Some(column) = table.column_mut(at)
                        && let Ok(natural) = u16::try_from(natural + 2)
                    {
                        column.set_constraint(comfy_table::ColumnConstraint::Absolute(
                            comfy_table::Width::Fixed(natural),
                        ));
                    }
                }
            }
            None => {
                table.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let mut text = String::new();
        for line in table.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// The table without one column, whose cells go below their rows.
    fn beneath(&self, column: usize, width: usize) -> String {
        let without = |cells: &[String]| -> Vec<String> {
            let mut cells = cells.to_vec();
            cells.remove(column);
            cells
        };
        let mut header = self.header.clone();
        header.remove(column);
        let mut table = Self::new(header);
        for row in &self.rows {
            table.row(without(row));
        }
        let text = table.table(None);
        let mut lines = text.lines();
        let mut text = String::from(lines.next().unwrap_or_default());
        text.push('\n');
        for (line, row) in lines.zip(&self.rows) {
            text.push_str(line);
            text.push('\n');
            let cell = wrap(&row[column], width.saturating_sub(BENEATH.len()));
            for line in cell.iter().filter(|line| !line.is_empty()) {
                text.push_str(BENEATH);
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }

    fn blocks(&self, width: usize) -> String {
        let label = self.header.iter().map(|name| name.len()).max().unwrap_or(0) + 2;
        let mut text = String::new();
        for (at, row) in self.rows.iter().enumerate() {
            if at > 0 {
                text.push('\n');
            }
            let cells = self.header.iter().zip(row);
            for (name, cell) in cells.filter(|(_, cell)| !cell.is_empty()) {
                let room = width.saturating_sub(label).max(4);
                let mut lines = wrap(cell, room).into_iter();
                let first = lines.next().unwrap_or_default();
                text.push_str(format!("{name:label$}{first}").trim_end());
                text.push('\n');
                for line in lines {
                    text.push_str(&" ".repeat(label));
                    text.push_str(&line);
                    text.push('\n');
                }
            }
        }
        text
    }
}

/// Breaks text at spaces where it can, and inside a word where it must.
pub(crate) fn wrap(text: &str, room: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_inclusive(' ') {
        let mut word = word.to_owned();
        loop {
            let last = lines.last_mut().expect("there is always one line");
            let (used, length) = (last.chars().count(), word.trim_end().chars().count());
            if used + length <= room {
                last.push_str(&word);
                break;
            }
            if used > 0 {
                lines.push(String::new());
                continue;
            }
            let cut = word
                .char_indices()
                .nth(room)
                .map_or(word.len(), |(at, _)| at);
            let rest = word.split_off(cut);
            last.push_str(&word);
            lines.push(String::new());
            word = rest;
        }
    }
    lines
        .into_iter()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(["name", "when", "description"]).flexible(2);
        table.row([
            "sales".into(),
            "3 min ago".into(),
            "Nightly loads for the sales team".into(),
        ]);
        table.row(["hr".into(), "just now".into(), String::new()]);
        table
    }

    #[test]
    fn fits_into_the_width_there_is() {
        for width in [20, 30, 40, 50, 60, 200] {
            for line in table().render(Some(width)).lines() {
                assert!(line.chars().count() <= width, "{width}: {line}");
            }
        }
    }

    #[test]
    fn becomes_blocks_where_columns_do_not_fit() {
        insta::assert_snapshot!(table().render(None), @r#"
        NAME   WHEN       DESCRIPTION
        sales  3 min ago  Nightly loads for the sales team
        hr     just now
        "#);
        insta::assert_snapshot!(table().render(Some(45)), @r#"
        NAME   WHEN       DESCRIPTION
        sales  3 min ago  Nightly loads for the
                          sales team
        hr     just now
        "#);
        insta::assert_snapshot!(table().render(Some(30)), @r#"
        NAME   WHEN
        sales  3 min ago
            Nightly loads for the
            sales team
        hr     just now
        "#);
        insta::assert_snapshot!(table().render(Some(14)), @r#"
        name         sale
                     s
        when         3
                     min
                     ago
        description  Nigh
                     tly
                     load
                     s
                     for
                     the
                     sale
                     s
                     team

        name         hr
        when         just
                     now
        "#);
    }
}
