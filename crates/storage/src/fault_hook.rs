//! Faults that tests inject below the engine: slow reads, slow and failing syncs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::error::Error;
use crate::host::Host;
use crate::options::{Blocking, InjectedFaults};

/// The fault hook of tests: makes syncs slow or fail, and reads slow.
#[derive(Default)]
pub(crate) struct FaultHook {
    syncs_fail: AtomicBool,
    sync_ms: AtomicU64,
    read_ms: AtomicU64,
}

impl FaultHook {
    pub(crate) fn set(&self, faults: InjectedFaults) {
        self.syncs_fail.store(faults.syncs_fail, Ordering::SeqCst);
        self.sync_ms.store(faults.sync_ms, Ordering::SeqCst);
        self.read_ms.store(faults.read_ms, Ordering::SeqCst);
    }

    /// Delays a read as configured, unless it may not block.
    pub(crate) fn before_read(&self, blocking: Blocking, host: &Host) -> Result<(), Error> {
        match (self.read_ms.load(Ordering::Relaxed), blocking) {
            (0, _) => Ok(()),
            (_, Blocking::Never) => Err(Error::WouldBlock),
            (read_ms, Blocking::Allowed) => {
                host.sleep(Duration::from_millis(read_ms));
                Ok(())
            }
        }
    }

    /// Delays or fails a sync as configured.
    pub(crate) fn apply(&self, host: &Host) -> Result<(), String> {
        let sync_ms = self.sync_ms.load(Ordering::SeqCst);
        if sync_ms > 0 {
            host.sleep(Duration::from_millis(sync_ms));
        }
        if self.syncs_fail.load(Ordering::SeqCst) {
            return Err("injected by the fault hook".to_owned());
        }
        Ok(())
    }
}
