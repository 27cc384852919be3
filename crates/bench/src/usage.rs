//! What processes used: CPU time, resident memory and writes to disk, read from `/proc` (Linux;
//! elsewhere there is no figure, which is not an error). Source: proc(5).

/// The length of one tick of `utime` and `stime`, in microseconds: `USER_HZ` is 100 on Linux.
const TICK_US: u64 = 10_000;

/// What a set of processes has used so far, summed over them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// User and system time, in microseconds.
    pub(crate) cpu_us: u64,
    /// Resident memory, in bytes.
    pub(crate) rss_bytes: u64,
    /// Bytes that they caused to be written to disk: dirtied pages in the page cache count, since
    /// they are written sooner or later.
    pub(crate) written_bytes: u64,
}

impl Usage {
    /// What was used since `before`; the memory is the current one.
    pub(crate) fn since(self, before: Usage) -> Usage {
        Usage {
            cpu_us: self.cpu_us.saturating_sub(before.cpu_us),
            rss_bytes: self.rss_bytes,
            written_bytes: self.written_bytes.saturating_sub(before.written_bytes),
        }
    }
}

/// The usage of these processes; those that have ended count as nothing.
pub(crate) fn of(pids: &[u32]) -> Usage {
    pids.iter().map(|pid| of_one(*pid)).fold(Usage::default(), |sum, one| Usage {
        cpu_us: sum.cpu_us + one.cpu_us,
        rss_bytes: sum.rss_bytes + one.rss_bytes,
        written_bytes: sum.written_bytes + one.written_bytes,
    })
}

fn of_one(pid: u32) -> Usage {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}"));
    Usage {
        cpu_us: read("stat").ok().and_then(|text| cpu_us(&text)).unwrap_or(0),
        rss_bytes: read("status").ok().and_then(|text| rss_bytes(&text)).unwrap_or(0),
        written_bytes: read("io").ok().and_then(|text| written_bytes(&text)).unwrap_or(0),
    }
}

/// Fields 14 and 15 of `/proc/PID/stat`, counted from after the name, which may contain anything.
fn cpu_us(stat: &str) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) * TICK_US)
}

fn rss_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn written_bytes(io: &str) -> Option<u64> {
    let figure = |name| io.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok();
    let written: u64 = figure("write_bytes:")?;
    let cancelled: u64 = figure("cancelled_write_bytes:")?;
    Some(written.saturating_sub(cancelled))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn reads_processor_time_past_a_strange_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 1 0 9 9 9";
        assert_eq!(cpu_us(stat), Some(2_000_000));
        assert_eq!(cpu_us("7 (a) S 1"), None);
        assert_eq!(cpu_us(""), None);
    }

    #[test]
    fn reads_resident_memory() {
        assert_eq!(rss_bytes("Name:\ta\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
        assert_eq!(rss_bytes("Name:\ta\n"), None);
    }

    #[test]
    fn reads_bytes_written_less_those_deleted_before_they_were() {
        let io = "wchar: 9\nread_bytes: 1\nwrite_bytes: 8192\ncancelled_write_bytes: 4096\n";
        assert_eq!(written_bytes(io), Some(4096));
        assert_eq!(written_bytes("wchar: 9\n"), None);
    }

    #[test]
    fn this_process_uses_memory_and_a_missing_one_nothing() {
        assert!(of(&[std::process::id()]).rss_bytes > 0);
        assert_eq!(of(&[u32::MAX]), Usage::default());
    }
}
