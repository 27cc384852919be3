//! The process, by the names that Prometheus' own clients use.

use std::fs;
use std::time::Duration;

use quorate_protocol::time::WallTime;
use rustix::time::{ClockId, clock_gettime};

use crate::http::descriptors;
use quorate_engine::metrics::desc::{Desc, Section};
use quorate_engine::metrics::text::{Writer, seconds};

const CPU: Desc =
    Desc::counter("process_cpu_seconds_total", "Processor time that the process has used");
const RESIDENT: Desc =
    Desc::gauge("process_resident_memory_bytes", "Memory of the process that is in RAM");
const VIRTUAL: Desc = Desc::gauge("process_virtual_memory_bytes", "Address space of the process");
const THREADS: Desc = Desc::gauge("process_threads", "Threads of the process");
const DISK: Desc = Desc::counter(
    "quorate_disk_bytes_total",
    "Bytes that the process had the system read from disks and write to them",
)
.by(&["direction"])
.means("Written: the log, flushes and compactions together. Read: what no cache held.");
const OPEN: Desc = Desc::gauge("process_open_fds", "Open file descriptors")
    .means("The store, the peers and every client connection need some.");
const MAX: Desc = Desc::gauge("process_max_fds", "Limit of open file descriptors")
    .means("At the limit client connections are refused; LimitNOFILE= of the service raises it.");
const STARTED: Desc = Desc::gauge(
    "process_start_time_seconds",
    "When the node was started, in seconds since 1970 by the machine's clock",
);

/// The metrics written here.
pub(super) const SECTION: Section = Section {
    title: "Process",
    about: "By the names that Prometheus' own clients use. What the system does not say is left out.",
    metrics: &[CPU, RESIDENT, VIRTUAL, THREADS, DISK, OPEN, MAX, STARTED],
};

/// Writes the metrics of the process, started then.
pub(super) fn write(out: &mut Writer, started: WallTime) {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    out.one(&CPU, seconds(Duration::new(cpu.tv_sec as u64, cpu.tv_nsec as u32)));
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (desc, name, unit) in
        [(&RESIDENT, "VmRSS", 1024), (&VIRTUAL, "VmSize", 1024), (&THREADS, "Threads", 1)]
    {
        if let Some(value) = field(&status, name) {
            out.one(desc, value * unit);
        }
    }
    let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
    if let (Some(read), Some(written)) = (field(&io, "read_bytes"), field(&io, "write_bytes")) {
        let mut disk = out.metric(&DISK);
        disk.value(&["read"], read);
        disk.value(&["written"], written);
    }
    if let Some(open) = descriptors::open_now() {
        out.one(&OPEN, open);
    }
    if let Some(limit) = descriptors::limit() {
        out.one(&MAX, limit);
    }
    out.one(&STARTED, seconds(Duration::from_millis(started.0)));
}

/// A number from `/proc/self/status` (in kilobytes if it is an amount of memory) or its like.
fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let status = "Name:\tquorate\nVmRSSx:\t1 kB\nVmRSS:\t  1234 kB\nThreads:\t9\n";
        assert_eq!((field(status, "VmRSS"), field(status, "Threads")), (Some(1234), Some(9)));
        assert_eq!((field(status, "Vm"), field(status, "Name")), (None, None));
    }
}
