//! Answers that are kept as long as they are true, and how long that is (RFC 2308).
//!
//! What was not asked for the longest gives way to what is new.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::query::Key;

/// How many answers are kept at most.
const ENTRIES: usize = 4096;
/// How many bytes they have at most.
const BYTES: usize = 4 << 20;
/// The longest answer that is kept.
const LONGEST: usize = 16 << 10;
/// What an entry takes beside its answer and its name.
const OVERHEAD: usize = 256;

#[derive(Debug)]
struct Entry {
    message: Vec<u8>,
    since: Instant,
    until: Instant,
    /// By what it is found among those that were asked for before and after it.
    turn: u64,
}

impl Entry {
    fn size(&self, key: &Key) -> usize {
        self.message.len() + key.name.as_bytes().len() + OVERHEAD
    }
}

/// Answers by what was asked.
#[derive(Debug, Default)]
pub(super) struct Cache {
    entries: HashMap<Arc<Key>, Entry, foldhash::fast::RandomState>,
    turns: BTreeMap<u64, Arc<Key>>,
    turn: u64,
    bytes: usize,
}

impl Cache {
    /// Returns an answer and how many seconds old it is.
    pub(super) fn find(&mut self, key: &Key, now: Instant) -> Option<(&[u8], u32)> {
        if self.entries.get(key)?.until <= now {
            self.remove(key);
            return None;
        }
        let entry = self.entries.get_mut(key)?;
        if let Some(key) = self.turns.remove(&entry.turn) {
            self.turn += 1;
            entry.turn = self.turn;
            self.turns.insert(self.turn, key);
        }
        let age = now.saturating_duration_since(entry.since).as_secs();
        Some((&entry.message, u32::try_from(age).unwrap_or(u32::MAX)))
    }

    /// Keeps an answer for a time.
    pub(super) fn insert(&mut self, key: Key, message: &[u8], lifetime: Duration, now: Instant) {
        self.remove(&key);
        let Some(until) = now.checked_add(lifetime).filter(|until| *until > now) else {
            return;
        };
        if message.len() > LONGEST {
            return;
        }
        self.turn += 1;
        let entry = Entry {
            message: message.to_vec(),
            since: now,
            until,
            turn: self.turn,
        };
        self.bytes += entry.size(&key);
        let key = Arc::new(key);
        self.turns.insert(self.turn, Arc::clone(&key));
        self.entries.insert(key, entry);
        while self.entries.len() > ENTRIES || self.bytes > BYTES {
            let Some(oldest) = self.turns.values().next().cloned() else {
                return;
            };
            self.remove(&oldest);
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.turns.clear();
        self.bytes = 0;
    }

    /// Returns how many answers there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.turns.remove(&entry.turn);
            self.bytes -= entry.size(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::dns::{Name, kind};

    fn key(number: usize) -> Key {
        Key {
            name: Name::new(&format!("n{number}.example")).unwrap(),
            kind: kind::A,
            flags: 0,
            dnssec: false,
        }
    }

    #[test]
    fn an_answer_ages_and_is_gone_when_its_time_is_over() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        let second = Duration::from_secs(1);
        cache.insert(key(1), b"answer", 10 * second, start);
        let found = cache.find(&key(1), start + 9 * second);
        assert_eq!(found, Some((&b"answer"[..], 9)));
        assert_eq!(cache.find(&key(1), start + 10 * second), None);
        assert_eq!((cache.len(), cache.bytes), (0, 0));
        cache.insert(key(1), b"answer", Duration::ZERO, start);
        assert_eq!(cache.len(), 0);
    }

    #[test]
    fn what_was_not_asked_for_the_longest_gives_way() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let hour = Duration::from_secs(3600);
        for number in 0..ENTRIES {
            cache.insert(key(number), b"", hour, now);
        }
        assert!(cache.find(&key(0), now).is_some());
        cache.insert(key(ENTRIES), b"", hour, now);
        assert_eq!(cache.len(), ENTRIES);
        assert!(cache.find(&key(0), now).is_some());
        assert!(cache.find(&key(1), now).is_none());
    }

    #[test]
    fn bytes_are_limited_as_well() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let hour = Duration::from_secs(3600);
        let long = vec![0; LONGEST];
        for number in 0..1000 {
            cache.insert(key(number), &long, hour, now);
            assert!(cache.bytes <= BYTES);
        }
        assert!(cache.len() > 200);
        cache.insert(key(0), &[0; LONGEST + 1], hour, now);
        assert!(cache.find(&key(0), now).is_none());
        cache.clear();
        assert_eq!((cache.len(), cache.bytes), (0, 0));
    }
}
