//! Lines of a file or of standard input, read ahead on a thread of their own.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

/// Lines read ahead.
const AHEAD: usize = 16;
/// The longest line, in bytes.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// The next line, without its break.
///
/// # Errors
/// Why it cannot be read.
fn next(lines: &mut dyn BufRead) -> Result<Option<Vec<u8>>, String> {
    let mut text = Vec::new();
    let read = lines.take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut text);
    match read.map_err(|error| error.to_string())? {
        0 => return Ok(None),
        length if length as u64 > LINE_BYTES_MAX => {
            return Err(format!("longer than {}", crate::out::bytes(LINE_BYTES_MAX)));
        }
        _ => {}
    }
    if text.ends_with(b"\n") {
        text.pop();
    }
    Ok(Some(text))
}

/// All lines of a file.
///
/// # Errors
/// The file cannot be opened.
pub(crate) fn in_file(file: &Path) -> io::Result<impl Iterator<Item = Result<Vec<u8>, String>>> {
    let mut lines = BufReader::new(File::open(file)?);
    Ok(std::iter::from_fn(move || next(&mut lines).transpose()))
}

/// Reads lines on a thread of its own, without the first ones: standard input (no file) may be slow. Nothing
/// comes after an error.
pub(crate) fn of(file: Option<PathBuf>, skip: u64) -> mpsc::Receiver<Result<Vec<u8>, String>> {
    let (to, from) = mpsc::channel(AHEAD);
    std::thread::spawn(move || {
        let mut lines: Box<dyn BufRead> = match file.map(File::open).transpose() {
            Ok(Some(file)) => Box::new(BufReader::new(file)),
            Ok(None) => Box::new(BufReader::new(std::io::stdin())),
            Err(error) => return drop(to.blocking_send(Err(error.to_string()))),
        };
        let mut number = 0;
        while let Some(line) = next(&mut *lines).transpose() {
            number += 1;
            let (is_due, is_last) = (number > skip || line.is_err(), line.is_err());
            let is_gone = is_due && to.blocking_send(line).is_err();
            if is_last || is_gone {
                return;
            }
        }
    });
    from
}
