//! Random use, compared with a map.

use std::collections::BTreeMap;

use postern_queue::QueueId;
use postern_queue::store::{Change, Store};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::support::*;

type Model = BTreeMap<QueueId, (usize, Option<String>)>;

fn any(model: &Model, random: &mut StdRng) -> Option<QueueId> {
    if model.is_empty() {
        return None;
    }
    model.keys().nth(random.random_range(0..model.len())).copied()
}

fn step(store: &Store, model: &mut Model, random: &mut StdRng, number: usize) {
    let mut changes = Vec::new();
    for _ in 0..random.random_range(1..4) {
        let picked = any(model, random).filter(|_| random.random_bool(0.6));
        match picked {
            None => {
                let id = store.next_id();
                let length = random.random_range(0..2500);
                changes.push(enqueue(id, length));
                model.insert(id, (length, None));
            }
            Some(id) if random.random_bool(0.5) => {
                let text = format!("state {number}");
                changes.push(state(id, &text));
                model.get_mut(&id).unwrap().1 = Some(text);
            }
            Some(id) => {
                changes.push(Change::Delete { id });
                model.remove(&id);
            }
        }
    }
    if random.random_bool(0.5) {
        commit(store, changes);
    } else {
        store.commit(changes, Box::new(|result| result.unwrap()));
    }
}

fn check(store: &Store, found: &postern_queue::store::Found, model: &Model) {
    assert_eq!(ids(found), model.keys().copied().collect::<Vec<_>>());
    assert_eq!(found.damaged, 0);
    for (id, (length, state)) in model {
        assert_eq!(state_of(found, *id), *state);
        assert_eq!(read(store, *id).unwrap(), content(*id, *length));
    }
}

#[test]
fn the_store_is_a_map_that_lasts() {
    for seed in 0..4 {
        let mut random = StdRng::seed_from_u64(seed);
        let directory = tempfile::tempdir().unwrap();
        let mut model = Model::new();
        for round in 0..8 {
            let (store, found) = open(directory.path());
            check(&store, &found, &model);
            for number in 0..random.random_range(1..80) {
                step(&store, &mut model, &mut random, number);
                if random.random_bool(0.05) {
                    store.collect();
                }
            }
            drop(store);
            if round % 3 == 2 {
                std::fs::remove_dir_all(directory.path().join("index")).unwrap();
            }
        }
        let (store, found) = open(directory.path());
        check(&store, &found, &model);
    }
}
