//! Things by their numbers, which are used again when the things are gone.

use crate::net::nat::expiry::Note;

/// A table of things. A number can be told from the same number of a former thing by its serial number.
#[derive(Debug)]
pub(super) struct Table<T> {
    slots: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Table<T> {
    /// The number that the next thing will have; `None` where there are too many.
    pub(super) fn vacant(&self) -> Option<Note> {
        match self.free.last() {
            Some(id) => Some(Note {
                id: *id,
                serial: self.slots[*id as usize].0,
            }),
            None => Some(Note {
                id: u32::try_from(self.slots.len()).ok()?,
                serial: 0,
            }),
        }
    }

    /// Puts a thing where [`Table::vacant`] said.
    pub(super) fn insert(&mut self, thing: T) {
        match self.free.pop() {
            Some(id) => self.slots[id as usize].1 = Some(thing),
            None => self.slots.push((0, Some(thing))),
        }
    }

    /// Returns a thing.
    pub(super) fn get(&self, id: u32) -> Option<&T> {
        self.slots.get(id as usize)?.1.as_ref()
    }

    /// Returns a thing, to be changed.
    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        self.slots.get_mut(id as usize)?.1.as_mut()
    }

    /// Returns the note of a thing.
    pub(super) fn note(&self, id: u32) -> Option<Note> {
        let (serial, thing) = self.slots.get(id as usize)?;
        thing.as_ref()?;
        Some(Note {
            id,
            serial: *serial,
        })
    }

    /// Whether a note is of the thing that has its number now.
    pub(super) fn is_current(&self, note: Note) -> bool {
        let slot = self.slots.get(note.id as usize);
        slot.is_some_and(|(serial, thing)| *serial == note.serial && thing.is_some())
    }

    /// Takes a thing out.
    pub(super) fn remove(&mut self, id: u32) -> Option<T> {
        let slot = self.slots.get_mut(id as usize)?;
        let thing = slot.1.take()?;
        slot.0 = slot.0.wrapping_add(1);
        self.free.push(id);
        Some(thing)
    }

    /// All things with their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..)
            .zip(&self.slots)
            .filter_map(|(id, (_, thing))| Some((id, thing.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_used_again_and_told_apart() {
        let mut table = Table::default();
        let first = table.vacant().unwrap();
        table.insert("a");
        assert!(table.is_current(first));
        assert_eq!(table.remove(first.id), Some("a"));
        assert_eq!(table.remove(first.id), None);
        let second = table.vacant().unwrap();
        table.insert("b");
        assert_eq!((first.id, table.get(second.id)), (second.id, Some(&"b")));
        assert!(!table.is_current(first) && table.is_current(second));
    }
}
