//! The file that keeps where a feed goes on.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;

use crate::exit::{Done, Exit, Failure};

/// The longest cursor that is read, in bytes: those of nodes have about 30 for each node.
const CURSOR_BYTES_MAX: u64 = 64 << 10;

/// The cursor in a file; `None` if there is no file.
///
/// # Errors
/// Usage: the file cannot be read, or has something else in it.
pub(super) fn read(file: &Path) -> Done<Option<String>> {
    let wrong = |why: &str| Failure::usage(format!("{}: {why}", file.display()));
    let mut text = String::new();
    let read = match File::open(file) {
        Ok(open) => open.take(CURSOR_BYTES_MAX).read_to_string(&mut text),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => Err(error),
    };
    read.map_err(|error| wrong(&error.to_string()))?;
    let cursor = text.trim_end_matches('\n');
    let is_base64url = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    if cursor.is_empty() || !cursor.bytes().all(is_base64url) {
        let advice = "delete it to begin anew, or name another file";
        return Err(wrong("this is no cursor of a feed").advise(advice).into());
    }
    Ok(Some(cursor.to_owned()))
}

/// Replaces the cursor in a file: whoever reads it sees the one before or this one, also after a power cut.
///
/// # Errors
/// The file cannot be written.
pub(super) fn write(file: &Path, cursor: &str) -> Done {
    replace(file, cursor).map_err(|error| {
        Failure::new(Exit::Failed, format!("{}: {error}", file.display()))
            .advise("the page before was printed, and comes again the next time")
            .into()
    })
}

fn replace(file: &Path, cursor: &str) -> io::Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    let new = Path::new(&name);
    let mut out = File::create(new)?;
    out.write_all(format!("{cursor}\n").as_bytes())?;
    out.sync_all()?;
    fs::rename(new, file)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::exit::Stop;

    #[test]
    fn a_cursor_is_kept_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("carts.cursor");
        assert_eq!(read(&file).unwrap(), None);
        for cursor in ["AQ-x_9", "AQ"] {
            write(&file, cursor).unwrap();
            assert_eq!(read(&file).unwrap().as_deref(), Some(cursor));
        }
        let left = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 1, "nothing else stays");
        for bad in ["", "\n", "a b", "{\"cursor\": 1}", "a\n\nb"] {
            fs::write(&file, bad).unwrap();
            let Err(Stop::Failed(failure)) = read(&file) else { panic!("{bad:?} is no cursor") };
            assert!(failure.exit == Exit::Usage && failure.message.contains("carts.cursor"));
        }
        let nowhere = dir.path().join("no/such/file");
        let Err(Stop::Failed(failure)) = write(&nowhere, "AQ") else { panic!("it has no place") };
        assert_eq!(failure.exit, Exit::Failed);
    }
}
