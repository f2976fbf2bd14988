//! An ordered map for a million entries whose keys mostly ascend, like the ids of messages: it takes up little more than
//! what is in it.
//!
//! A B-tree that is filled in order stays half empty. Here the entries stand in chunks, one behind the other, each sorted;
//! what comes at the end fills the last chunk, and one in the middle is split when it is full. A chunk has room for a few
//! more entries than it has, and gives back what removals leave. An operation costs a search among the chunks and within
//! one, and moves at most the entries of one.

use std::collections::VecDeque;

/// Entries of a chunk at most: few enough to be moved in well under a microsecond, and enough that a chunk costs little
/// beside them.
const CHUNK: usize = 64;

/// A chunk grows by so many entries at a time, and has room for less than twice as many more than it has.
const STEP: usize = 16;

/// See the module. Keys are copied, so they should be small.
#[derive(Debug, Clone)]
pub(crate) struct AscendingMap<K, V> {
    /// None is empty, and the keys of each are below those of the next.
    chunks: VecDeque<Chunk<K, V>>,
    len: usize,
}

/// Neighbours: the keys, and beside them the values in the same order.
#[derive(Debug, Clone)]
struct Chunk<K, V> {
    /// The first of the keys: the search among the chunks needs no other.
    first: K,
    keys: Vec<K>,
    values: Vec<V>,
}

impl<K, V> Default for AscendingMap<K, V> {
    fn default() -> Self {
        Self { chunks: VecDeque::new(), len: 0 }
    }
}

impl<K: Ord + Copy, V> AscendingMap<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        let chunk = self.chunks.get(self.chunk_of(key))?;
        let index = chunk.keys.binary_search(key).ok()?;
        chunk.values.get(index)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let at = self.chunk_of(key);
        let chunk = self.chunks.get_mut(at)?;
        let index = chunk.keys.binary_search(key).ok()?;
        chunk.values.get_mut(index)
    }

    /// Returns what was there before.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let mut at = self.chunk_of(&key);
        let mut index = match self.chunks.get_mut(at).map(|chunk| chunk.keys.binary_search(&key)) {
            Some(Ok(index)) => return Some(std::mem::replace(&mut self.chunks[at].values[index], value)),
            Some(Err(index)) => index,
            None => 0,
        };
        if self.chunks.get(at).is_none_or(Chunk::is_full) {
            (at, index) = self.make_room(at, index, key);
        }
        self.chunks[at].insert(index, key, value);
        self.len += 1;
        None
    }

    /// Where an entry goes that would go into a chunk that is full, or into the first one of all.
    fn make_room(&mut self, at: usize, index: usize, key: K) -> (usize, usize) {
        if index < CHUNK && !self.chunks.is_empty() {
            let upper = self.chunks[at].split();
            self.chunks.insert(at + 1, upper);
            return if index <= CHUNK / 2 { (at, index) } else { (at + 1, index - CHUNK / 2) };
        }
        // Behind the last of them: what comes in order leaves full chunks behind it.
        let next = self.chunks.len().min(at + 1);
        if self.chunks.get(next).is_none_or(Chunk::is_full) {
            self.chunks.insert(next, Chunk { first: key, keys: Vec::new(), values: Vec::new() });
        }
        (next, 0)
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let at = self.chunk_of(key);
        let index = self.chunks.get(at)?.keys.binary_search(key).ok()?;
        let (_, value) = self.remove_at(at, index);
        Some(value)
    }

    pub(crate) fn pop_first(&mut self) -> Option<(K, V)> {
        (!self.is_empty()).then(|| self.remove_at(0, 0))
    }

    /// Takes away all for which `keep` says no.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(K, &mut V) -> bool) {
        for mut chunk in std::mem::take(self).chunks {
            chunk.retain(&mut keep);
            self.len += chunk.keys.len();
            match self.chunks.back_mut() {
                Some(last) if last.fits_with(&chunk) => last.append(chunk),
                _ if chunk.keys.is_empty() => {}
                _ => self.chunks.push_back(chunk),
            }
        }
    }

    pub(crate) fn first_key_value(&self) -> Option<(K, &V)> {
        self.iter().next()
    }

    /// All entries in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        self.chunks.iter().flat_map(|chunk| chunk.keys.iter().copied().zip(&chunk.values))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (K, &mut V)> {
        self.chunks.iter_mut().flat_map(|chunk| chunk.keys.iter().copied().zip(&mut chunk.values))
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = K> {
        self.chunks.iter().flat_map(|chunk| chunk.keys.iter().copied())
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.chunks.iter().flat_map(|chunk| &chunk.values)
    }

    /// The entries from a key on.
    pub(crate) fn range_from(&self, key: K) -> impl Iterator<Item = (K, &V)> {
        let (at, index) = self.lower_bound(&key);
        let mut before = index;
        self.chunks.range(at..).flat_map(move |chunk| {
            let from = std::mem::take(&mut before);
            chunk.keys[from..].iter().copied().zip(&chunk.values[from..])
        })
    }

    pub(crate) fn range_from_mut(&mut self, key: K) -> impl Iterator<Item = (K, &mut V)> {
        let (at, index) = self.lower_bound(&key);
        let mut before = index;
        self.chunks.range_mut(at..).flat_map(move |chunk| {
            let from = std::mem::take(&mut before);
            chunk.keys[from..].iter().copied().zip(&mut chunk.values[from..])
        })
    }

    /// The chunk that has a key if there is such an entry, and that would take it if there is not. No chunk: 0.
    fn chunk_of(&self, key: &K) -> usize {
        let last = self.chunks.len().saturating_sub(1);
        if self.chunks.back().is_none_or(|chunk| chunk.first <= *key) {
            return last;
        }
        self.chunks.partition_point(|chunk| chunk.first <= *key).saturating_sub(1)
    }

    /// Where the first entry is whose key is not below this one: its chunk, and its place in that. The place may be the one
    /// behind the last.
    fn lower_bound(&self, key: &K) -> (usize, usize) {
        let at = self.chunk_of(key);
        (at, self.chunks.get(at).map_or(0, |chunk| chunk.keys.partition_point(|other| other < key)))
    }

    fn remove_at(&mut self, at: usize, index: usize) -> (K, V) {
        let removed = self.chunks[at].remove(index);
        self.len -= 1;
        if self.chunks[at].keys.is_empty() {
            self.chunks.remove(at);
        } else {
            self.merge(at);
        }
        if self.chunks.capacity() > STEP.max(4 * self.chunks.len()) {
            self.chunks.shrink_to(2 * self.chunks.len());
        }
        removed
    }

    /// Joins a chunk with a neighbour, if they fit.
    fn merge(&mut self, at: usize) {
        let fits = |lower: &usize| match (self.chunks.get(*lower), self.chunks.get(*lower + 1)) {
            (Some(chunk), Some(next)) => chunk.fits_with(next),
            _ => false,
        };
        let Some(lower) = [Some(at), at.checked_sub(1)].into_iter().flatten().find(fits) else {
            return;
        };
        if let Some(upper) = self.chunks.remove(lower + 1) {
            self.chunks[lower].append(upper);
        }
    }
}

impl<K: Ord + Copy, V> Extend<(K, V)> for AscendingMap<K, V> {
    fn extend<T: IntoIterator<Item = (K, V)>>(&mut self, entries: T) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K: Ord + Copy, V> FromIterator<(K, V)> for AscendingMap<K, V> {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(entries: T) -> Self {
        let mut map = Self::default();
        map.extend(entries);
        map
    }
}

impl<K: Copy, V> Chunk<K, V> {
    fn is_full(&self) -> bool {
        self.keys.len() >= CHUNK
    }

    /// Whether both together are so few that they should be one chunk: half of one, so that the next entries do not split
    /// it again.
    fn fits_with(&self, next: &Self) -> bool {
        self.keys.len() + next.keys.len() <= CHUNK / 2
    }

    fn insert(&mut self, index: usize, key: K, value: V) {
        if self.keys.len() == self.keys.capacity() {
            // A map of one entry should be small too.
            self.reserve(self.keys.len().clamp(1, STEP));
        }
        self.keys.insert(index, key);
        self.values.insert(index, value);
        self.first = self.keys[0];
    }

    fn remove(&mut self, index: usize) -> (K, V) {
        let removed = (self.keys.remove(index), self.values.remove(index));
        self.has_fewer();
        removed
    }

    fn retain(&mut self, keep: &mut impl FnMut(K, &mut V) -> bool) {
        let mut kept = 0;
        for index in 0..self.keys.len() {
            if keep(self.keys[index], &mut self.values[index]) {
                self.keys.swap(kept, index);
                self.values.swap(kept, index);
                kept += 1;
            }
        }
        self.keys.truncate(kept);
        self.values.truncate(kept);
        self.has_fewer();
    }

    /// Takes the upper half of a full chunk away.
    fn split(&mut self) -> Self {
        let (keys, values) = (self.keys.split_off(CHUNK / 2), self.values.split_off(CHUNK / 2));
        self.has_fewer();
        Self { first: keys[0], keys, values }
    }

    /// Adds a chunk whose keys are above its own.
    fn append(&mut self, mut next: Self) {
        self.reserve(next.keys.len());
        self.keys.append(&mut next.keys);
        self.values.append(&mut next.values);
    }

    fn reserve(&mut self, more: usize) {
        self.keys.reserve_exact(more);
        self.values.reserve_exact(more);
    }

    /// Entries are gone: gives back their room, but for what is soon used again.
    fn has_fewer(&mut self) {
        self.first = self.keys.first().copied().unwrap_or(self.first);
        let room = self.keys.len() + STEP;
        if self.keys.capacity() >= room + STEP {
            self.keys.shrink_to(room);
            self.values.shrink_to(room);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Map = AscendingMap<u64, String>;

    /// What holds of every map, whatever was done to it.
    fn check<V>(map: &AscendingMap<u64, V>) {
        assert!(map.keys().is_sorted_by(|a, b| a < b));
        assert_eq!((map.keys().count(), map.iter().count()), (map.len(), map.len()));
        for chunk in &map.chunks {
            assert_eq!((chunk.first, chunk.keys.len()), (chunk.keys[0], chunk.values.len()));
            assert!(chunk.keys.len() <= CHUNK);
            assert!(chunk.keys.capacity() < chunk.keys.len() + 2 * STEP);
        }
        let mut neighbours = map.chunks.iter().zip(map.chunks.iter().skip(1));
        assert!(neighbours.all(|(chunk, next)| !chunk.fits_with(next)));
    }

    fn same(map: &Map, model: &BTreeMap<u64, String>, at: u64) {
        check(map);
        assert!(map.iter().eq(model.iter().map(|(key, value)| (*key, value))));
        assert!(map.range_from(at).eq(model.range(at..).map(|(key, value)| (*key, value))));
        assert!(map.values().eq(model.values()));
        assert_eq!(map.first_key_value(), model.first_key_value().map(|(key, value)| (*key, value)));
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// So many keys behind the last.
        Append(u64),
        Insert(u64),
        Remove(u64),
        /// The n-th entry, and so many behind it.
        RemoveRun(usize, usize),
        PopFirst,
        /// Leaves one of so many.
        Retain(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1..400_u64).prop_map(Step::Append),
            8 => (0..3000_u64).prop_map(Step::Insert),
            8 => (0..3000_u64).prop_map(Step::Remove),
            4 => (0..2000_usize, 1..300_usize).prop_map(|(from, count)| Step::RemoveRun(from, count)),
            4 => Just(Step::PopFirst),
            1 => (1..200_u64).prop_map(Step::Retain),
        ]
    }

    fn run(step: &Step, map: &mut Map, model: &mut BTreeMap<u64, String>) {
        let last = model.keys().next_back().copied().unwrap_or(0);
        match step {
            Step::Append(count) => {
                for key in (1..=*count).map(|more| last + 2 * more) {
                    assert_eq!(map.insert(key, key.to_string()), model.insert(key, key.to_string()));
                }
            }
            Step::Insert(key) => {
                let value = format!("{key}, inserted when there were {}", model.len());
                assert_eq!(map.insert(*key, value.clone()), model.insert(*key, value));
            }
            Step::Remove(key) => assert_eq!(map.remove(key), model.remove(key)),
            Step::RemoveRun(from, count) => {
                let keys: Vec<u64> = model.keys().skip(*from).take(*count).copied().collect();
                keys.iter().for_each(|key| assert_eq!(map.remove(key), model.remove(key)));
            }
            Step::PopFirst => assert_eq!(map.pop_first(), model.pop_first()),
            Step::Retain(each) => {
                let changed = |key: u64, value: &mut String| {
                    value.push('!');
                    key.is_multiple_of(*each)
                };
                map.retain(changed);
                model.retain(|key, value| changed(*key, value));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn it_does_what_a_b_tree_does(steps in proptest::collection::vec(step(), 1..80), at in 0..4000_u64) {
            let (mut map, mut model) = (Map::default(), BTreeMap::new());
            for step in &steps {
                run(step, &mut map, &mut model);
                same(&map, &model, at);
                assert_eq!(map.get(&at), model.get(&at));
                assert_eq!(map.get_mut(&at), model.get_mut(&at));
            }
            for value in map.range_from_mut(at).map(|(_, value)| value).take(200) {
                value.push('?');
            }
            model.range_mut(at..).take(200).for_each(|(_, value)| value.push('?'));
            map.iter_mut().for_each(|(key, value)| value.push_str(&key.to_string()));
            model.iter_mut().for_each(|(key, value)| value.push_str(&key.to_string()));
            same(&map, &model, at);
        }
    }

    #[test]
    fn what_comes_in_order_fills_its_chunks() {
        let map: AscendingMap<u64, u64> = (0..100_000).map(|key| (key, key)).collect();
        check(&map);
        assert_eq!(map.chunks.len(), 100_000_usize.div_ceil(CHUNK));
    }

    #[test]
    fn no_order_of_coming_leaves_chunks_nearly_empty() {
        let upwards: Vec<u64> = (1..5000).map(|n| 500_000 + n).collect();
        let downwards: Vec<u64> = upwards.iter().rev().copied().collect();
        for keys in [upwards, downwards] {
            let mut map: AscendingMap<u64, ()> = (0..1000).map(|key| (key * 1000, ())).collect();
            for key in keys {
                map.insert(key, ());
                check(&map);
            }
            assert!(map.chunks.len() < 3 * map.len() / CHUNK, "{}", map.chunks.len());
        }
    }

    #[test]
    fn what_is_removed_gives_its_room_back() {
        let mut map: AscendingMap<u64, u64> = (0..100_000).map(|key| (key, key)).collect();
        let room = |map: &AscendingMap<u64, u64>| {
            map.chunks.iter().map(|chunk| chunk.keys.capacity()).sum::<usize>()
        };
        for key in (0..100_000).filter(|key| key % 100 != 0) {
            map.remove(&key);
        }
        check(&map);
        assert!(room(&map) < 3 * map.len(), "{}", room(&map));
        assert!(map.chunks.capacity() < 200, "{}", map.chunks.capacity());
        while map.pop_first().is_some() {}
        assert_eq!((map.len(), room(&map)), (0, 0));
    }

    #[test]
    fn a_map_of_one_entry_is_small() {
        let map: AscendingMap<u64, u64> = [(7, 7)].into_iter().collect();
        assert_eq!((map.chunks[0].keys.capacity(), map.chunks[0].values.capacity()), (1, 1));
        assert!(map.chunks.capacity() <= 4);
    }
}
