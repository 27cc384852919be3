//! Output: tables, JSON and bytes on standard output, notes on standard error. Colour only on a
//! terminal. A closed pipe ends the command and is no error.

use std::io::{ErrorKind, IsTerminal, Write};

use serde_json::Value;

use crate::exit::{Done, Exit, Failure, Stop};
use crate::table::Table;

/// Where a command writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Out {
    /// Whether it prints JSON.
    pub(crate) json: bool,
    /// Whether standard output is a terminal.
    pub(crate) terminal: bool,
    colour: bool,
}

impl Out {
    /// For standard output as it is. `NO_COLOR` (with any value) and `TERM=dumb` turn colour off.
    pub(crate) fn new(json: bool) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let colour =
            terminal && set("NO_COLOR").is_none() && set("TERM").is_none_or(|it| it != "dumb");
        Self { json, terminal, colour }
    }

    /// Bytes as they are.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Done {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(broken)
    }

    /// Text, and a line break.
    pub(crate) fn line(&self, text: &str) -> Done {
        self.bytes(format!("{text}\n").as_bytes())
    }

    /// One JSON document, on one line.
    pub(crate) fn json(&self, value: &Value) -> Done {
        self.line(&value.to_string())
    }

    /// A table.
    pub(crate) fn table(&self, table: &Table) -> Done {
        self.bytes(table.render(self.colour).as_bytes())
    }

    /// The table as text, as it would be printed.
    pub(crate) fn rendered(&self, table: &Table) -> String {
        table.render(self.colour)
    }

    /// A note for people, on standard error.
    pub(crate) fn note(&self, text: &str) {
        note(text);
    }
}

/// A line on standard error. One that cannot be written is lost.
pub(crate) fn note(text: &str) {
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}

fn broken(error: std::io::Error) -> Stop {
    if error.kind() == ErrorKind::BrokenPipe {
        return Stop::ClosedPipe;
    }
    Failure::new(Exit::Failed, format!("standard output: {error}")).into()
}

/// Text of others, safe on a terminal: control characters and invisible ones are shown as escapes.
pub(crate) fn safe(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        let hidden = matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}');
        if c.is_control() || hidden {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Likewise, cut after this many characters.
pub(crate) fn short(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => safe(&text[..end]) + "…",
        None => safe(text),
    }
}

/// A number of bytes in words: `2.1 GiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A duration in words: `850 ms`, `12.3 s`, `5 min`, `3 h`, `2 d`.
pub(crate) fn millis(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..100_000 => format!("{:.1} s", ms as f64 / 1e3),
        100_000..6_000_000 => format!("{} min", ms / 60_000),
        6_000_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / 86_400_000),
    }
}

/// `1 key`, `2 keys`.
pub(crate) fn count(count: u64, one: &str) -> String {
    format!("{count} {one}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_cannot_move_the_cursor() {
        assert_eq!(safe("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        assert_eq!(safe("grüße 😀"), "grüße 😀");
        assert_eq!(safe("x\u{202e}y\u{2061}"), "x\\u{202e}y\\u{2061}");
        assert_eq!(short("abcdef", 3), "abc…");
    }

    #[test]
    fn numbers_are_told_in_words() {
        assert_eq!([bytes(0), bytes(1023), bytes(1536)], ["0 B", "1023 B", "1.5 KiB"]);
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
        assert_eq!([millis(999), millis(1500), millis(240_000)], ["999 ms", "1.5 s", "4 min"]);
        assert_eq!([count(1, "key"), count(2, "key")], ["1 key", "2 keys"]);
    }
}
