//! Dividing a batch into requests: by the home of the keys, by how many there are, by their length.

use std::collections::BTreeMap;

/// The most operations of one request.
const OPERATIONS_MAX: usize = 1000;
/// The longest body, in bytes: half of what nodes take.
pub(super) const JSON_BYTES_MAX: usize = 4 << 20;
/// Fewer operations than these are not worth a request of their own.
const WORTH_A_REQUEST: usize = 8;
const HEAD: &str = "{\"operations\":[";
const END: &str = "]}";

/// An operation that can be sent with others.
pub(super) struct Ready {
    /// Its number in the batch.
    pub(super) place: usize,
    pub(super) text: String,
    /// The name of the first home replica of its key, if it is known.
    pub(super) home: Option<String>,
    /// Whether it may be sent again after it may have arrived.
    pub(super) repeatable: bool,
}

/// One request.
pub(super) struct Piece {
    /// The numbers of its operations, in their order.
    pub(super) places: Vec<usize>,
    pub(super) body: String,
    /// Whether it may be sent again after it may have arrived: all of it may.
    pub(super) repeatable: bool,
}

impl Piece {
    fn begin(repeatable: bool) -> Self {
        Self { places: Vec::new(), body: HEAD.to_owned(), repeatable }
    }

    fn has_room_for(&self, text: &str) -> bool {
        self.places.len() < OPERATIONS_MAX
            && (self.places.is_empty() || self.body.len() + text.len() < JSON_BYTES_MAX)
    }

    fn add(&mut self, one: &Ready) {
        if !self.places.is_empty() {
            self.body.push(',');
        }
        self.body.push_str(&one.text);
        self.places.push(one.place);
    }
}

/// Divides operations into requests. Those whose keys have one first home travel together, since writes meet
/// there anyway; where there are only few of each, they share a request.
pub(super) fn pieces(ready: Vec<Ready>) -> Vec<Piece> {
    let mut groups: BTreeMap<(bool, Option<String>), Vec<Ready>> = BTreeMap::new();
    for one in ready {
        groups.entry((one.repeatable, one.home.clone())).or_default().push(one);
    }
    let mut few: BTreeMap<bool, Vec<Ready>> = BTreeMap::new();
    let mut pieces = Vec::new();
    for ((repeatable, _), group) in groups {
        match group.len() < WORTH_A_REQUEST {
            true => few.entry(repeatable).or_default().extend(group),
            false => fill(&mut pieces, repeatable, &group),
        }
    }
    for (repeatable, mut group) in few {
        group.sort_unstable_by_key(|one| one.place);
        fill(&mut pieces, repeatable, &group);
    }
    for piece in &mut pieces {
        piece.body.push_str(END);
    }
    pieces
}

fn fill(pieces: &mut Vec<Piece>, repeatable: bool, group: &[Ready]) {
    let mut piece = Piece::begin(repeatable);
    for one in group {
        if !piece.has_room_for(&one.text) {
            pieces.push(std::mem::replace(&mut piece, Piece::begin(repeatable)));
        }
        piece.add(one);
    }
    pieces.push(piece);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn ready(place: usize, home: &str) -> Ready {
        let home = Some(home.to_owned());
        Ready { place, text: format!("{{\"n\":{place}}}"), home, repeatable: true }
    }

    fn sizes(pieces: &[Piece]) -> Vec<usize> {
        pieces.iter().map(|piece| piece.places.len()).collect()
    }

    #[test]
    fn operations_travel_by_home_unless_there_are_few() {
        let many = pieces((0..20).map(|at| ready(at, ["n1", "n2"][at % 2])).collect());
        assert_eq!(sizes(&many), [10, 10]);
        assert_eq!(many[1].places[..3], [1, 3, 5]);
        let few = pieces((0..14).map(|at| ready(at, ["n1", "n2"][at % 2])).collect());
        assert_eq!(few[0].places, (0..14).collect::<Vec<_>>());
        let body: serde_json::Value = serde_json::from_str(&few[0].body).unwrap();
        assert_eq!(body["operations"][13]["n"], 13);
        assert!(pieces(Vec::new()).is_empty());
    }

    #[test]
    fn no_request_has_too_many_or_too_much() {
        let by_count = pieces((0..2001).map(|at| ready(at, "n1")).collect());
        assert_eq!(sizes(&by_count), [1000, 1000, 1]);
        let large = |at| Ready { text: "x".repeat(1 << 20), ..ready(at, "n1") };
        let by_length = pieces((0..9).map(large).collect());
        assert_eq!(sizes(&by_length), [3, 3, 3]);
        assert!(by_length.iter().all(|piece| piece.body.len() < JSON_BYTES_MAX));
        let whole = |at| Ready { text: "x".repeat(JSON_BYTES_MAX), ..ready(at, "n1") };
        assert_eq!(sizes(&pieces((0..2).map(whole).collect())), [1, 1]);
    }

    #[test]
    fn what_must_not_be_repeated_travels_apart() {
        let once = |at| Ready { repeatable: at != 1, ..ready(at, "n1") };
        let apart = pieces((0..3).map(once).collect());
        let found: Vec<_> = apart.iter().map(|piece| (piece.repeatable, &piece.places)).collect();
        assert_eq!(found, [(false, &vec![1]), (true, &vec![0, 2])]);
    }
}
