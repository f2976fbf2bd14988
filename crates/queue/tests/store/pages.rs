//! Where batches begin: what is left of a page is given up when that is little, so that the page is not written again.

use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::disk::{Call, Disk, Say};
use crate::support::*;

const PAGE: u64 = 4096;
const HEADER: u64 = 64;

/// Remembers what is written to the log: offset and length, piece by piece.
#[derive(Debug, Default)]
struct Written(Mutex<Vec<(u64, u64)>>);

impl Written {
    /// Where the next batch would begin, and where the last one has begun.
    fn ends(&self) -> (u64, u64) {
        let pieces = std::mem::take(&mut *self.0.lock());
        let first = pieces.first().unwrap().0;
        pieces.iter().fold((first, first), |(end, first), (offset, length)| {
            assert_eq!(end, *offset);
            (offset + length, first)
        })
    }
}

impl Say for Written {
    fn before(&self, path: &Path, call: Call<'_>) -> io::Result<()> {
        if let Call::Write(offset, octets) = call
            && path.parent().is_some_and(|directory| directory.ends_with("log"))
        {
            self.0.lock().push((offset, octets.len() as u64));
        }
        Ok(())
    }
}

#[test]
fn a_batch_ends_with_its_page_when_little_is_left_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(Written::default());
    let (store, _) = open_on(directory.path(), Arc::new(Disk(Arc::clone(&disk)))).unwrap();
    let mut ids = Vec::new();
    let mut put_up_to = |end: u64, begin: u64| {
        let id = store.next_id();
        let length = end - begin - HEADER - envelope(id).len() as u64;
        commit(&store, vec![enqueue(id, length as usize)]);
        ids.push((id, length as usize));
        disk.ends()
    };
    // The segment begins with a record of its own.
    assert_eq!(put_up_to(PAGE - 400, HEADER), (PAGE, 0), "400 octets would be left");
    assert_eq!(put_up_to(PAGE + 2000, PAGE), (PAGE + 2000, PAGE), "much is left");
    assert_eq!(put_up_to(2 * PAGE - 48, PAGE + 2000), (2 * PAGE - 48, PAGE + 2000), "no record fits");
    store.close();

    std::fs::remove_dir_all(directory.path().join("index")).unwrap();
    let (store, found) = open(directory.path());
    assert_eq!((found.messages.len(), found.damaged), (3, 0));
    for (id, length) in ids {
        assert_eq!(read(&store, id).unwrap(), content(id, length));
    }
}
