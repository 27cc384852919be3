//! When a port is full, idle connections make way for new ones, the longest idle first. Otherwise
//! clients that only connect could lock out all others, including health checks.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::sleep;

/// After this long without a request a connection counts as idle, and may be closed in favour of a new one.
pub(crate) const IDLE_AFTER: Duration = Duration::from_secs(1);

/// The idle connections of one port.
#[derive(Default)]
pub(crate) struct Crowd {
    /// Wakes them one by one, the longest waiting first.
    go: Arc<Notify>,
    idle: AtomicUsize,
}

impl Crowd {
    /// Asks the longest idle connection to close. Returns whether there was one.
    pub(crate) fn ask_one_to_go(&self) -> bool {
        let is_any = self.idle.load(Ordering::Relaxed) > 0;
        if is_any {
            self.go.notify_one();
        }
        is_any
    }

    /// Waits as long as a connection may be without a request: for `patience`, or until it is asked to close
    /// once it counts as idle.
    pub(crate) async fn wait(self: &Arc<Self>, patience: Duration) {
        let at_first = IDLE_AFTER.min(patience);
        sleep(at_first).await;
        let mut idle = self.enter();
        tokio::select! {
            () = idle.asked() => {}
            () = sleep(patience - at_first) => {}
        }
    }

    /// The connection counts as idle until this is dropped.
    pub(crate) fn enter(self: &Arc<Self>) -> Idle {
        self.idle.fetch_add(1, Ordering::Relaxed);
        Idle { asked: Box::pin(self.go.clone().notified_owned()), crowd: self.clone() }
    }
}

/// One idle connection.
pub(crate) struct Idle {
    asked: Pin<Box<OwnedNotified>>,
    crowd: Arc<Crowd>,
}

impl Idle {
    /// Ready when this connection is asked to close.
    pub(crate) fn poll_asked(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.asked.as_mut().poll(cx)
    }
}

impl Idle {
    /// Waits until this connection is asked to close.
    pub(crate) async fn asked(&mut self) {
        std::future::poll_fn(|cx| self.poll_asked(cx)).await;
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.crowd.idle.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use std::future::poll_fn;

    use super::*;

    fn is_asked(idle: &mut Idle) -> bool {
        poll_fn(|cx| idle.poll_asked(cx)).now_or_never().is_some()
    }

    #[tokio::test]
    async fn who_has_been_idle_for_longest_goes_first() {
        let crowd = Arc::new(Crowd::default());
        assert!(!crowd.ask_one_to_go());
        let (mut first, mut second) = (crowd.enter(), crowd.enter());
        let both = poll_fn(|cx| {
            assert!(first.poll_asked(cx).is_pending() && second.poll_asked(cx).is_pending());
            assert!(crowd.ask_one_to_go());
            Poll::Ready((first.poll_asked(cx).is_ready(), second.poll_asked(cx).is_ready()))
        });
        assert_eq!(both.await, (true, false));
        drop(first);
        assert!(crowd.ask_one_to_go() && is_asked(&mut second));
        drop(second);
        assert!(!crowd.ask_one_to_go());
    }
}
