//! Tables for people: aligned columns without lines, cells painted on a terminal.
//!
//! The layout library counts characters, and would count escape sequences too. So a painted cell is
//! enclosed in invisible characters of no width, which become escape sequences once the widths are
//! settled. Text of others cannot hold them ([`crate::out::safe`]).

use comfy_table::{CellAlignment, presets};

use crate::out::safe;

/// How a cell is painted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    Plain,
    Good,
    Warn,
    Bad,
    Dim,
}

const END: char = '\u{2060}';
const MARKS: [(Paint, char, &str); 4] = [
    (Paint::Good, '\u{2061}', "\u{1b}[32m"),
    (Paint::Warn, '\u{2062}', "\u{1b}[33m"),
    (Paint::Bad, '\u{2063}', "\u{1b}[31m"),
    (Paint::Dim, '\u{2064}', "\u{1b}[2m"),
];

/// One cell.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    paint: Paint,
}

/// A cell of plain text.
pub(crate) fn cell(text: impl ToString) -> Cell {
    painted(text, Paint::Plain)
}

/// A painted cell.
pub(crate) fn painted(text: impl ToString, paint: Paint) -> Cell {
    Cell { text: safe(&text.to_string()), paint }
}

/// A value that may be unknown: `-`.
pub(crate) fn maybe(value: Option<impl ToString>) -> Cell {
    value.map_or_else(|| painted("-", Paint::Dim), cell)
}

/// A table, built row by row.
#[derive(Debug)]
pub(crate) struct Table {
    headings: Vec<&'static str>,
    numbers: Vec<usize>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table with these headings; those that start with `#` stand over numbers, which are aligned
    /// to the right.
    pub(crate) fn new(headings: &[&'static str]) -> Self {
        let numbers = |(at, heading): (usize, &&str)| heading.starts_with('#').then_some(at);
        Self {
            headings: headings.iter().map(|heading| heading.trim_start_matches('#')).collect(),
            numbers: headings.iter().enumerate().filter_map(numbers).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// The text of the table, each line with a line break.
    pub(crate) fn render(&self, colour: bool) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(self.headings.iter().map(|heading| mark(heading, Paint::Dim)));
        for row in &self.rows {
            table.add_row(row.iter().map(|cell| mark(&cell.text, cell.paint)));
        }
        for (at, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            if self.numbers.contains(&at) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut text = String::new();
        for line in table.lines() {
            text += &paint(line.trim_end(), colour);
            text.push('\n');
        }
        text
    }
}

fn mark(text: &str, paint: Paint) -> String {
    match MARKS.iter().find(|(of, _, _)| *of == paint) {
        Some((_, mark, _)) => format!("{mark}{text}{END}"),
        None => text.to_owned(),
    }
}

fn paint(line: &str, colour: bool) -> String {
    let mut text = String::with_capacity(line.len());
    for c in line.chars() {
        let escape = match MARKS.iter().find(|(_, mark, _)| *mark == c) {
            Some((_, _, escape)) => escape,
            None if c == END => "\u{1b}[0m",
            None => {
                text.push(c);
                continue;
            }
        };
        if colour {
            text += escape;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_whether_painted_or_not() {
        let mut table = Table::new(&["node", "state", "#keys"]);
        table.row(vec![cell("n1"), painted("up", Paint::Good), cell(7)]);
        table.row(vec![cell("n\n2"), painted("down", Paint::Bad), cell(12345)]);
        let plain = table.render(false);
        assert_eq!(plain, "node  state   keys\nn1    up         7\nn\\n2  down   12345\n");
        let colour = table.render(true);
        assert!(colour.contains("\u{1b}[32mup\u{1b}[0m"), "{colour:?}");
        let bare: String = colour.replace("\u{1b}[0m", "").replace("\u{1b}[2m", "");
        assert_eq!(bare.replace("\u{1b}[32m", "").replace("\u{1b}[31m", ""), plain);
    }

    #[test]
    fn text_of_others_cannot_paint() {
        let mut table = Table::new(&["key"]);
        table.row(vec![cell("\u{2061}x\u{1b}[31m")]);
        assert!(!table.render(true).contains("\u{1b}[31m"));
        assert!(!table.render(true).contains("\u{1b}[32m"));
    }
}
