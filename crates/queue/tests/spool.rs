//! What every store has to do for the queue, as [`Spool`] says it: each behaviour here is tried over each store. One that is
//! shared by several machines is one more line at the end, and then the tests of the queue itself (`tests/queue`).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use postern_queue::memory::Memory;
use postern_queue::spool::{Change, Found, NewBody, News, PIECE, Recovered, StoredBody};
use postern_queue::store::files::SystemFiles;
use postern_queue::store::meter::Meter;
use postern_queue::store::{Store, Tuning};
use postern_queue::{QueueId, Spool, StoreError};
use postern_runtime::{Clock, ManualClock, SystemClock};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What a store is kept in; it outlives the stores that are opened on it.
trait Backing: Default {
    fn open(
        &self,
        clock: Arc<dyn Clock>,
        tell: &mut dyn FnMut(News),
    ) -> Result<(Arc<dyn Spool>, Found), StoreError>;
}

struct Directory(tempfile::TempDir);

impl Default for Directory {
    fn default() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
}

impl Backing for Directory {
    fn open(
        &self,
        clock: Arc<dyn Clock>,
        tell: &mut dyn FnMut(News),
    ) -> Result<(Arc<dyn Spool>, Found), StoreError> {
        let config = postern_config::Queue {
            path: self.0.path().join("spool"),
            segment_size: 64 * 1024,
            ..postern_config::Queue::default()
        };
        let (files, meter) = (Arc::new(SystemFiles), Meter::new().unwrap());
        let (store, found) = Store::open_telling(&config, files, clock, Tuning::default(), meter, tell)?;
        Ok((Arc::new(store), found))
    }
}

impl Backing for Memory {
    fn open(
        &self,
        clock: Arc<dyn Clock>,
        tell: &mut dyn FnMut(News),
    ) -> Result<(Arc<dyn Spool>, Found), StoreError> {
        let (spool, found) = Self::open(self, clock, tell)?;
        Ok((Arc::new(spool), found))
    }
}

/// What a start tells.
type Told = BTreeMap<QueueId, Recovered>;

fn open(backing: &impl Backing) -> (Arc<dyn Spool>, Told) {
    open_at(backing, Arc::new(SystemClock))
}

/// Opens a store of which nothing is damaged.
fn open_at(backing: &impl Backing, clock: Arc<dyn Clock>) -> (Arc<dyn Spool>, Told) {
    let mut told = Told::new();
    let mut tell = |news| match news {
        News::Message(message) => drop(told.insert(message.id, message)),
        News::Lost(message) => panic!("{} has lost its content", message.id),
        News::Gone(id) => drop(told.remove(&id)),
        News::Nothing => told.clear(),
    };
    let (spool, found) = Backing::open(backing, clock, &mut tell).unwrap();
    assert_eq!((found.damaged, found.lost.len(), found.index_rebuilt), (0, 0, None));
    (spool, told)
}

/// Opens again what was closed.
fn reopen(backing: &impl Backing, spool: Arc<dyn Spool>) -> (Arc<dyn Spool>, Told) {
    spool.close();
    drop(spool);
    open(backing)
}

/// Hands in changes; answers where the result is to be heard.
fn hand_in(spool: &dyn Spool, changes: Vec<Change>) -> Receiver<Result<(), Arc<StoreError>>> {
    let (sender, receiver) = channel();
    spool.commit(changes, Box::new(move |result| sender.send(result).unwrap()));
    receiver
}

/// Commits and waits.
fn try_commit(spool: &dyn Spool, changes: Vec<Change>) -> Result<(), Arc<StoreError>> {
    hand_in(spool, changes).recv_timeout(Duration::from_secs(60)).expect("nobody said how it ended")
}

fn commit(spool: &dyn Spool, changes: Vec<Change>) {
    try_commit(spool, changes).unwrap();
}

fn envelope(id: QueueId) -> Vec<u8> {
    format!("envelope of {id}").into_bytes()
}

/// The content of a message, different for each id.
fn content(id: QueueId, length: usize) -> Vec<u8> {
    format!("{id} ").bytes().cycle().take(length).collect()
}

fn enqueue(id: QueueId, length: usize) -> Change {
    let content = Bytes::from(content(id, length));
    let pieces = vec![content.slice(..length / 3), Bytes::new(), content.slice(length / 3..)];
    Change::Enqueue { id, meta: envelope(id), body: NewBody::Inline(pieces) }
}

const HEADER: &[u8] = b"Received: from client.test\r\n";

/// A large message, with [`HEADER`] in front.
fn enqueue_large(spool: &dyn Spool, id: QueueId, length: usize) -> Change {
    let mut body = spool.begin_body(id).unwrap();
    content(id, length).chunks(100_000).for_each(|piece| body.write(piece).unwrap());
    let body = body.finish().unwrap();
    assert_eq!((body.length(), body.crc()), (length as u64, crc32c::crc32c(&content(id, length))));
    Change::Enqueue { id, meta: envelope(id), body: NewBody::Large { header: HEADER.to_vec(), body } }
}

fn state(id: QueueId, text: &str) -> Change {
    Change::State { id, state: text.as_bytes().to_vec() }
}

/// A new message, committed.
fn put(spool: &dyn Spool, length: usize) -> QueueId {
    let id = spool.next_id();
    commit(spool, vec![enqueue(id, length)]);
    id
}

fn message(id: QueueId, state: Option<&str>) -> Recovered {
    Recovered { id, meta: envelope(id), state: state.map(|text| text.as_bytes().to_vec()) }
}

fn told(messages: impl IntoIterator<Item = Recovered>) -> Told {
    messages.into_iter().map(|message| (message.id, message)).collect()
}

fn rest(mut body: StoredBody) -> Vec<u8> {
    let mut octets = Vec::new();
    while let Some(piece) = body.next().unwrap() {
        assert!((1..=PIECE).contains(&piece.len()));
        octets.extend_from_slice(&piece);
    }
    assert!(body.next().unwrap().is_none(), "the end stays the end");
    octets
}

/// The content of a message.
fn read(spool: &dyn Spool, id: QueueId) -> Vec<u8> {
    let body = spool.read(id).unwrap();
    let length = body.len();
    let octets = rest(body);
    assert_eq!(octets.len() as u64, length);
    octets
}

/// Nothing of this id is there.
fn assert_gone(spool: &dyn Spool, id: QueueId) {
    assert!(matches!(spool.read(id), Err(StoreError::NoMessage(other)) if other == id));
    assert!(matches!(spool.load(id), Err(StoreError::NoMessage(other)) if other == id));
}

fn ids_only_grow(backing: &impl Backing) {
    let clock = ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_284_325));
    let (spool, _) = open_at(backing, Arc::new(clock.clone()));
    let mut all = std::thread::scope(|scope| {
        let ids = || (0..200).map(|_| spool.next_id()).collect::<Vec<_>>();
        let threads = [0, 1, 2].map(|_| scope.spawn(ids));
        let mut all = Vec::new();
        for ids in threads.map(|thread| thread.join().unwrap()) {
            assert!(ids.is_sorted(), "as one thread sees them");
            all.extend(ids);
        }
        all
    });
    all.sort_unstable();
    assert!(all.windows(2).all(|pair| pair[0] < pair[1]), "no two are alike");
    let last = all[all.len() - 1];
    commit(&*spool, vec![enqueue(last, 10)]);
    spool.close();
    drop(spool);

    clock.set(clock.now() - Duration::from_secs(86_400));
    let (spool, _) = open_at(backing, Arc::new(clock.clone()));
    assert!(spool.next_id() > last, "over a restart");
    // From a queue whose clock was ahead; that it has ended makes no difference.
    let ahead = QueueId(last.0 + (1 << 40));
    commit(&*spool, vec![enqueue(ahead, 10)]);
    assert!(spool.next_id() > ahead);
    commit(&*spool, vec![Change::Delete { id: ahead }]);
    spool.close();
    drop(spool);
    assert!(open_at(backing, Arc::new(clock)).0.next_id() > ahead);
}

fn a_message_is_read_as_it_was_committed(backing: &impl Backing) {
    let (mut spool, found) = open(backing);
    assert_eq!(found, Told::new());
    let lengths = [0, 1, 1000, PIECE, 2 * PIECE + 7];
    let ids = lengths.map(|length| put(&*spool, length));
    for _ in 0..2 {
        for (id, length) in ids.into_iter().zip(lengths) {
            assert_eq!(spool.load(id).unwrap(), message(id, None));
            assert_eq!(spool.read(id).unwrap().is_empty(), length == 0);
            assert!(read(&*spool, id) == content(id, length), "{length} octets");
        }
        let found;
        (spool, found) = reopen(backing, spool);
        assert_eq!(found, told(ids.map(|id| message(id, None))));
    }
}

fn states_replace_each_other_until_the_end(backing: &impl Backing) {
    let (spool, _) = open(backing);
    let (first, second) = (put(&*spool, 100), put(&*spool, 100));
    commit(&*spool, vec![state(first, "one"), state(second, "one"), state(first, "two")]);
    assert_eq!(spool.load(first).unwrap(), message(first, Some("two")));
    commit(&*spool, vec![state(second, "")]);
    assert_eq!(spool.load(second).unwrap(), message(second, Some("")));
    let (spool, found) = reopen(backing, spool);
    assert_eq!(found, told([message(first, Some("two")), message(second, Some(""))]));

    commit(&*spool, vec![state(first, "three"), Change::Delete { id: first }]);
    assert_gone(&*spool, first);
    assert!(read(&*spool, second) == content(second, 100));
    let (spool, found) = reopen(backing, spool);
    assert_eq!(found, told([message(second, Some(""))]));
    assert_gone(&*spool, first);
}

fn changes_of_what_is_not_there_change_nothing(backing: &impl Backing) {
    let (spool, _) = open(backing);
    let gone = put(&*spool, 10);
    let never = spool.next_id();
    commit(&*spool, vec![Change::Delete { id: gone }]);
    commit(&*spool, vec![state(gone, "late"), Change::Delete { id: gone }]);
    commit(&*spool, vec![Change::Delete { id: never }, state(never, "early")]);
    commit(&*spool, Vec::new());
    for id in [gone, never] {
        assert_gone(&*spool, id);
    }
    assert_eq!(reopen(backing, spool).1, Told::new());
}

fn a_group_counts_whole_or_not_at_all(backing: &impl Backing) {
    let (spool, _) = open(backing);
    let (first, second) = (put(&*spool, 10), put(&*spool, 10));
    let (going, is_going) = channel();
    let (answer, answers) = channel();
    std::thread::scope(|scope| {
        // Some are on their way while the store is closed.
        scope.spawn(|| {
            let is_refused = Arc::new(AtomicBool::new(false));
            for number in 0.. {
                if is_refused.load(Ordering::Relaxed) {
                    break;
                }
                let (text, id) = (number.to_string(), spool.next_id());
                let changes =
                    [state(first, &text), enqueue(id, 5000), state(id, &text), state(second, &text)];
                let (answer, is_refused) = (answer.clone(), is_refused.clone());
                let done = move |result: Result<(), _>| {
                    is_refused.fetch_or(result.is_err(), Ordering::Relaxed);
                    answer.send((id, text, result.is_ok())).unwrap();
                };
                spool.commit(changes.into(), Box::new(done));
                if number == 50 {
                    going.send(()).unwrap();
                }
            }
        });
        is_going.recv().unwrap();
        spool.close();
    });
    drop((spool, answer));
    let (spool, found) = open(backing);
    let (mut expected, mut last, mut refused) = (Told::new(), None, Vec::new());
    for (id, text, is_durable) in answers {
        if is_durable {
            expected.insert(id, message(id, Some(&text)));
            last = Some(text);
        } else {
            refused.push(id);
        }
    }
    assert!(expected.len() > 50 && !refused.is_empty());
    expected.extend(told([first, second].map(|id| message(id, last.as_deref()))));
    assert_eq!(found, expected);
    refused.into_iter().for_each(|id| assert_gone(&*spool, id));
}

fn answers_come_in_the_order_of_the_commits(backing: &impl Backing) {
    const MANY: usize = 200;
    let (spool, _) = open(backing);
    let ids = [put(&*spool, 10), put(&*spool, 10)];
    let (heard, hears) = channel();
    let write = |spool: &dyn Spool, id, heard: &Sender<(QueueId, String)>, writer: usize, number: usize| {
        let (heard, text) = (heard.clone(), format!("{writer} {number:03}"));
        let change = state(id, &text);
        let done = move |result: Result<(), _>| heard.send(result.map(|()| (id, text)).unwrap()).unwrap();
        spool.commit(vec![change], Box::new(done));
    };
    // From an answer, which must not be told before its turn; and from several threads.
    let (inner, inner_heard) = (spool.clone(), heard.clone());
    let more = move |_| (0..MANY).for_each(|number| write(&*inner, ids[0], &inner_heard, 9, number));
    spool.commit(vec![state(ids[0], "begun")], Box::new(more));
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let (spool, heard) = (&*spool, &heard);
            scope.spawn(move || (0..MANY).for_each(|number| write(spool, ids[1], heard, writer, number)));
        }
    });
    let all: Vec<(QueueId, String)> =
        (0..5 * MANY).map(|_| hears.recv_timeout(Duration::from_secs(60)).unwrap()).collect();
    for writer in ["9", "0", "1", "2", "3"] {
        let own: Vec<&String> =
            all.iter().map(|(_, text)| text).filter(|text| text.starts_with(writer)).collect();
        assert!(own.len() == MANY && own.is_sorted(), "{own:?}");
    }
    // The last that was told is the one that counts.
    for id in ids {
        let last = all.iter().rfind(|(of, _)| *of == id).map(|(_, text)| text.as_str());
        assert_eq!(spool.load(id).unwrap(), message(id, last));
    }
}

fn what_is_told_is_there(backing: &impl Backing) {
    let (spool, _) = open(backing);
    let id = spool.next_id();
    let (sender, receiver) = channel();
    let told = spool.clone();
    let done = move |result: Result<(), _>| {
        result.unwrap();
        sender.send((told.load(id).unwrap(), read(&*told, id), told.next_id())).unwrap();
    };
    spool.commit(vec![enqueue(id, 700), state(id, "new")], Box::new(done));
    let (loaded, octets, next) = receiver.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!((loaded, octets), (message(id, Some("new")), content(id, 700)));
    assert!(next > id);
}

fn an_answer_that_panics_harms_no_other(backing: &impl Backing) {
    let (spool, _) = open(backing);
    let first = spool.next_id();
    spool.commit(vec![enqueue(first, 10)], Box::new(|_| panic!("on purpose")));
    let second = put(&*spool, 10);
    assert_eq!(reopen(backing, spool).1, told([first, second].map(|id| message(id, None))));
}

fn a_large_message_is_read_with_its_header_in_front(backing: &impl Backing) {
    let (mut spool, _) = open(backing);
    let lengths = [0, 1, PIECE, 1_000_000];
    let ids = lengths.map(|length| {
        let id = spool.next_id();
        commit(&*spool, vec![enqueue_large(&*spool, id, length), state(id, "large")]);
        id
    });
    for _ in 0..2 {
        for (id, length) in ids.into_iter().zip(lengths) {
            assert!(read(&*spool, id) == [HEADER, &content(id, length)].concat(), "{length} octets");
        }
        let found;
        (spool, found) = reopen(backing, spool);
        assert_eq!(found, told(ids.map(|id| message(id, Some("large")))));
    }
}

fn a_large_body_without_a_message_leaves_nothing(backing: &impl Backing) {
    let (spool, _) = open(backing);
    let id = spool.next_id();
    let mut unfinished = spool.begin_body(id).unwrap();
    unfinished.write(&[0; 300_000]).unwrap();
    let second = spool.begin_body(id);
    assert!(
        matches!(second, Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::AlreadyExists)
    );
    drop(unfinished);
    assert_gone(&*spool, id);
    // An id is free again when nothing of it is there.
    drop(spool.begin_body(id).unwrap().finish().unwrap());
    assert_gone(&*spool, id);
    let refused = enqueue_large(&*spool, id, 300_000);
    spool.close();
    assert!(matches!(*try_commit(&*spool, vec![refused]).unwrap_err(), StoreError::Closed));
    drop(spool);

    let (spool, found) = open(backing);
    assert_eq!(found, Told::new());
    commit(&*spool, vec![enqueue_large(&*spool, id, 10)]);
    assert!(spool.begin_body(id).is_err(), "a message has it");
    // A crash between the last octet and the commit.
    let lost = spool.next_id();
    let body = spool.begin_body(lost).unwrap().finish().unwrap();
    let (spool, found) = reopen(backing, spool);
    drop(body);
    assert_eq!(found, told([message(id, None)]));
    assert_gone(&*spool, lost);
    assert!(read(&*spool, id) == [HEADER, &content(id, 10)].concat());
}

fn who_reads_a_message_reads_it_to_its_end(backing: &impl Backing) {
    let (spool, _) = open(backing);
    let (small, large) = (put(&*spool, 700_000), spool.next_id());
    commit(&*spool, vec![enqueue_large(&*spool, large, 700_000)]);
    let mut bodies = [small, large].map(|id| spool.read(id).unwrap());
    let begun = bodies.each_mut().map(|body| body.next().unwrap().unwrap());
    commit(&*spool, vec![Change::Delete { id: small }, Change::Delete { id: large }]);
    [small, large].into_iter().for_each(|id| assert_gone(&*spool, id));
    let [first, second] = bodies.map(rest);
    assert!([&begun[0], &first[..]].concat() == content(small, 700_000));
    assert!([&begun[1], &second[..]].concat() == [HEADER, &content(large, 700_000)].concat());
}

fn one_process_has_it_at_a_time(backing: &impl Backing) {
    let (spool, _) = open(backing);
    let id = put(&*spool, 10);
    let open_again = || Backing::open(backing, Arc::new(SystemClock), &mut |_| ());
    let Err(StoreError::InUse(by)) = open_again() else { panic!("twice") };
    assert_eq!(by.process, Some(std::process::id()));
    spool.close();
    spool.close();
    let (second, _) = open_again().unwrap();
    // What comes to the first one is refused, and does not reach the second.
    for changes in [vec![Change::Delete { id }], vec![enqueue(spool.next_id(), 10)], Vec::new()] {
        assert!(matches!(*try_commit(&*spool, changes).unwrap_err(), StoreError::Closed));
    }
    drop(spool);
    assert!(matches!(open_again(), Err(StoreError::InUse(_))), "the second one has it still");
    assert_eq!(reopen(backing, second).1, told([message(id, None)]));
}

fn a_sound_store_has_room_and_nothing_to_say(backing: &impl Backing) {
    let (spool, _) = open(backing);
    put(&*spool, 10);
    assert_eq!(spool.health(), None);
    let space = spool.space();
    assert!(space.free > 0 && space.inodes > 0, "{space:?}");
}

/// What was acknowledged, by id: octets of the content, the state, whether it is large.
type Model = BTreeMap<QueueId, (usize, Option<String>, bool)>;

/// Some changes, noted.
fn group(spool: &dyn Spool, model: &mut Model, random: &mut StdRng, number: usize) -> Vec<Change> {
    let mut changes = Vec::new();
    for _ in 0..random.random_range(1..4) {
        let id = match model.len() {
            0 => None,
            there => model.keys().nth(random.random_range(0..there)).copied(),
        };
        match id.filter(|_| random.random_bool(0.6)) {
            None => {
                let id = spool.next_id();
                let (length, is_large) = (random.random_range(0..3000), random.random_bool(0.2));
                changes.push(if is_large { enqueue_large(spool, id, length) } else { enqueue(id, length) });
                model.insert(id, (length, None, is_large));
            }
            Some(id) if random.random_bool(0.5) => {
                let text = format!("state {number}");
                changes.push(state(id, &text));
                model.entry(id).and_modify(|(_, state, _)| *state = Some(text));
            }
            Some(id) => {
                changes.push(Change::Delete { id });
                model.remove(&id);
            }
        }
    }
    changes
}

fn a_start_tells_what_was_acknowledged(backing: &impl Backing) {
    let mut random = StdRng::seed_from_u64(7);
    let mut model = Model::new();
    let (mut spool, mut found) = open(backing);
    for _ in 0..8 {
        let expected = model.iter().map(|(id, (_, state, _))| message(*id, state.as_deref()));
        assert_eq!(found, told(expected));
        for (id, (length, _, is_large)) in &model {
            let header = if *is_large { HEADER } else { b"" };
            assert!(read(&*spool, *id) == [header, &content(*id, *length)].concat());
        }
        let numbers = 0..random.random_range(1..60);
        let answers: Vec<_> = numbers
            .map(|number| {
                let changes = group(&*spool, &mut model, &mut random, number);
                hand_in(&*spool, changes)
            })
            .collect();
        if random.random_bool(0.5) {
            // Otherwise closing must do: it makes durable what waits.
            answers.iter().for_each(|answer| answer.recv().unwrap().unwrap());
        }
        (spool, found) = reopen(backing, spool);
    }
}

/// Tries a store.
macro_rules! conforms {
    ($store:ident: $backing:ident) => {
        conforms! { $store: $backing:
            ids_only_grow
            a_message_is_read_as_it_was_committed
            states_replace_each_other_until_the_end
            changes_of_what_is_not_there_change_nothing
            a_group_counts_whole_or_not_at_all
            answers_come_in_the_order_of_the_commits
            what_is_told_is_there
            an_answer_that_panics_harms_no_other
            a_large_message_is_read_with_its_header_in_front
            a_large_body_without_a_message_leaves_nothing
            who_reads_a_message_reads_it_to_its_end
            one_process_has_it_at_a_time
            a_sound_store_has_room_and_nothing_to_say
            a_start_tells_what_was_acknowledged
        }
    };
    ($store:ident: $backing:ident: $($behaviour:ident)+) => {
        mod $store {
            $(#[test]
            fn $behaviour() {
                super::$behaviour(&super::$backing::default());
            })+
        }
    };
}

conforms!(disk: Directory);
conforms!(memory: Memory);
