//! Who decides what is sampled.

use super::*;
use crate::ops::finished::Finished;
use crate::testing::Counting;

struct Nowhere;

impl TraceSink for Nowhere {
    fn take(&self, _: Finished) {}

    fn counts(&self) -> TraceCounts {
        TraceCounts::default()
    }
}

fn sampler(percent: f64) -> Sampler {
    let share = (percent / 100.0 * u64::MAX as f64) as u64;
    let (sink, chance) = (Arc::new(Nowhere), Arc::new(Counting::default()));
    Sampler(Some(Sampling { sink, chance, share }))
}

fn parent(is_sampled: bool) -> Option<TraceParent> {
    let context = TraceContext::new([7; 16], [9; 8]).unwrap();
    Some(TraceParent { context, is_sampled })
}

#[test]
fn a_client_that_records_decides_and_chance_does_otherwise() {
    let seldom = sampler(0.0);
    let sample = seldom.choose(|| parent(true)).unwrap();
    assert_eq!((sample.context.trace(), sample.parent), ([7; 16], Some([9; 8])));
    assert_ne!(sample.context.span(), [9; 8], "a span of its own");
    let always = sampler(100.0);
    assert!(always.choose(|| parent(false)).is_none());
    let own = always.choose(|| None).unwrap();
    assert_eq!(own.parent, None);
    assert!((0..100).all(|_| always.choose(|| None).is_some()));
    let none = (0..100).filter(|_| seldom.choose(|| None).is_some()).count();
    assert!(none <= 1, "{none}"); // the first draw of the counting chance is 0
}

#[test]
fn where_nothing_is_exported_nobody_looks() {
    let off = Sampler(None);
    assert!(off.choose(|| panic!("not asked")).is_none());
    assert!(off.follow(parent(true).unwrap().context).is_none());
}
