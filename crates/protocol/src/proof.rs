//! How two ends of a connection prove to each other that they have the cluster's key.
//!
//! Each end contributes a nonce, and answers for the whole exchange with a keyed hash of it (BLAKE3): of who
//! speaks in which role, of both nonces, and of every byte that was said. What a listener has recorded is
//! worth nothing on another connection, whose nonces differ; a proof of one role is none of the other; and
//! nothing said before, such as the protocol versions on offer, can be changed on the way.
//!
//! This tells that a peer has *a* key of the cluster, not which member it is, and it does not protect what
//! follows on the connection: TLS does both.

use std::fmt;

use crate::context::equal_in_constant_time;

/// The length of a nonce, in bytes.
pub const NONCE_BYTES: usize = 16;
/// The length of a proof, in bytes.
pub const PROOF_BYTES: usize = 32;

/// A number that its sender never used before.
pub type Nonce = [u8; NONCE_BYTES];
/// A proof of the cluster's key for one exchange.
pub type Proof = [u8; PROOF_BYTES];

/// Who proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The node that opened a stream.
    Opener,
    /// The node that answers on a stream.
    Acceptor,
    /// A member that challenges a node which asks to join.
    Challenger,
    /// A node that asks to join.
    Newcomer,
    /// A member that answers it.
    Welcomer,
}

impl Role {
    /// What is hashed for it. Never changed, and never used for another.
    fn tag(self) -> u8 {
        match self {
            Self::Opener => 1,
            Self::Acceptor => 2,
            Self::Challenger => 3,
            Self::Newcomer => 4,
            Self::Welcomer => 5,
        }
    }
}

/// The keys with which a node proves itself: the first makes proofs, all of them verify, so that keys can be
/// replaced one node at a time.
#[derive(Clone)]
pub struct PeerKeys {
    keys: Vec<[u8; 32]>,
    tokens: Vec<[u8; 16]>,
}

impl PeerKeys {
    /// Derives them from the cluster's keys, of which there is at least one.
    pub fn new(secrets: &[[u8; 32]]) -> Self {
        let key = |secret: &[u8; 32]| blake3::derive_key("quorate 2026-11 peer proof", secret);
        let keys = secrets.iter().map(key).collect();
        Self { keys, tokens: secrets.iter().map(token).collect() }
    }

    /// Proves this node's key for an exchange: what was said in it, in order.
    pub fn prove(&self, role: Role, said: &[&[u8]]) -> Proof {
        self.keys.first().map_or([0; PROOF_BYTES], |key| mac(key, role, said))
    }

    /// Whether a proof of somebody in this role is one of any of the keys.
    pub fn verify(&self, role: Role, said: &[&[u8]], proof: &[u8]) -> bool {
        self.keys.iter().any(|key| equal_in_constant_time(&mac(key, role, said), proof))
    }

    /// The token by which protocol versions below [`crate::handshake::PROTOCOL_PROVES`] prove a key: the
    /// same in every frame, so that a listener can use it too.
    pub fn token(&self) -> [u8; 16] {
        self.tokens.first().copied().unwrap_or_default()
    }

    /// Whether a token is that of any of the keys.
    pub fn accepts_token(&self, token: &[u8; 16]) -> bool {
        self.tokens.iter().any(|own| equal_in_constant_time(own, token))
    }
}

impl fmt::Debug for PeerKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerKeys")
    }
}

fn token(secret: &[u8; 32]) -> [u8; 16] {
    let mut token = [0; 16];
    token.copy_from_slice(&blake3::derive_key("quorate 2026-11 peer token", secret)[..16]);
    token
}

/// Each part with its length in front, so that none can pass for the end of another.
fn mac(key: &[u8; 32], role: Role, said: &[&[u8]]) -> Proof {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&[role.tag()]);
    for part in said {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_its_role_its_words_and_its_key_alone() {
        let (old, new) = ([1; 32], [2; 32]);
        let keys = PeerKeys::new(&[new, old]);
        let proof = keys.prove(Role::Opener, &[b"ab", b"c"]);
        assert!(keys.verify(Role::Opener, &[b"ab", b"c"], &proof));
        assert!(!keys.verify(Role::Acceptor, &[b"ab", b"c"], &proof), "another role");
        assert!(!keys.verify(Role::Opener, &[b"a", b"bc"], &proof), "cut elsewhere");
        assert!(!keys.verify(Role::Opener, &[b"ab"], &proof), "less was said");
        assert!(!keys.verify(Role::Opener, &[b"ab", b"c"], &proof[..31]), "cut off");
        assert!(!keys.verify(Role::Opener, &[b"ab", b"c"], &[]), "nothing");
        assert!(!PeerKeys::new(&[[3; 32]]).verify(Role::Opener, &[b"ab", b"c"], &proof));
    }

    #[test]
    fn keys_are_replaced_one_node_at_a_time() {
        let (old, new) = ([1; 32], [2; 32]);
        let stages = [vec![old], vec![old, new], vec![new, old], vec![new]];
        for (before, after) in stages.iter().zip(&stages[1..]) {
            let (before, after) = (PeerKeys::new(before), PeerKeys::new(after));
            for (one, other) in [(&before, &after), (&after, &before)] {
                assert!(other.verify(Role::Opener, &[b"x"], &one.prove(Role::Opener, &[b"x"])));
                assert!(other.accepts_token(&one.token()));
            }
        }
        let (first, last) = (PeerKeys::new(&stages[0]), PeerKeys::new(&stages[3]));
        assert!(!last.verify(Role::Opener, &[b"x"], &first.prove(Role::Opener, &[b"x"])));
        assert!(!last.accepts_token(&first.token()));
    }

    #[test]
    fn keys_are_not_shown() {
        assert_eq!(format!("{:?}", PeerKeys::new(&[[7; 32]])), "PeerKeys");
    }
}
