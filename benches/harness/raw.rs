//! The bare disk: the same octets by as many writers, appended and made durable with one `fdatasync` for all who wait. What a
//! spool does beyond that is what it costs.

use std::fs::File;
use std::io::{IoSlice, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use bytes::Bytes;

use super::figures::{Run, Sample, Until};

/// What a message has beside its content in a spool: as much as an envelope of usual length.
pub const ENVELOPE: usize = 190;

/// A content of so many octets.
pub fn body(octets: usize) -> Bytes {
    (0..octets).map(|at| (at * 31 % 251) as u8).collect::<Vec<u8>>().into()
}

/// Measures it in a folder.
pub fn run(folder: &Path, writers: usize, octets: usize, until: Until) -> Result<Sample, String> {
    let path = folder.join("raw");
    let file = File::create(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let (sender, waiting) = channel();
    let committer = std::thread::spawn(move || commit(file, &waiting));
    let body = body(octets + ENVELOPE);
    let mut senders: Vec<Sender<Waiting>> = vec![sender; writers];
    let run = Run::drive(&mut senders, until, |sender| {
        let (done, told) = sync_channel(1);
        sender.send(Waiting { body: body.clone(), done }).map_err(|_| "the disk failed")?;
        told.recv().map_err(|_| "the disk failed".to_owned())
    });
    drop(senders);
    let syncs = committer.join().map_err(|_| "the committer panicked")?.map_err(|e| e.to_string())?;
    std::fs::remove_file(&path).map_err(|e| e.to_string())?;
    Ok(run?.sample(None, Some(syncs)))
}

struct Waiting {
    body: Bytes,
    done: SyncSender<()>,
}

/// Appends what waits and syncs, until nobody is left. Answers how often.
fn commit(mut file: File, waiting: &Receiver<Waiting>) -> std::io::Result<u64> {
    let mut syncs = 0;
    while let Ok(first) = waiting.recv() {
        let batch: Vec<Waiting> = std::iter::once(first).chain(waiting.try_iter()).collect();
        let mut slices: Vec<IoSlice<'_>> = batch.iter().map(|one| IoSlice::new(&one.body)).collect();
        let mut slices = slices.as_mut_slice();
        while !slices.is_empty() {
            let written = file.write_vectored(slices)?;
            IoSlice::advance_slices(&mut slices, written);
        }
        file.sync_data()?;
        syncs += 1;
        for one in batch {
            // Whoever is told has its place for the answer.
            let _ = one.done.send(());
        }
    }
    Ok(syncs)
}
