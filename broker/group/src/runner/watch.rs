//! The threads that look: at the time, at the own log, at the disk.

use super::shared::{Shared, held};
use sluice_env::{File, OpenMode};
use sluice_replication::Event;
use std::{io, sync::Arc, time::Duration};

/// The file that is written to see whether the disk takes writes.
const ALIVE: &str = "alive";
/// How long the own log's thread sleeps while this broker leads nobody.
const IDLE: Duration = Duration::from_secs(60);

/// Lets the wishes come true.
pub(super) fn pace(shared: &Shared) {
    while shared.pause(shared.options.timing.beat() / 2) {
        shared.make_wishes();
    }
}

/// Tells how far the own log has come, as long as this broker is master.
pub(super) fn own_log(shared: &Shared) {
    while let Some(found) = shared.wait(IDLE, |state| state.store.clone().filter(|_| state.core.master_of().is_some())) {
        let Some(store) = found else { continue };
        let seen = store.marks();
        shared.saw_tail(seen);
        shared.tell(Event::Own(held(seen)));
        store.await_progress(store.flush_mode().mark(), seen, shared.options.timing.beat());
    }
}

/// Writes a few bytes now and then, in the store's directory.
pub(super) fn disk(shared: &Shared) {
    let mut file = None;
    let mut has_failed = false;
    while shared.pause(shared.options.timing.disk() / 4) {
        let begun = shared.now();
        match write(shared, &mut file) {
            Ok(()) => {
                has_failed = false;
                shared.disk_took_a_write(begun);
            }
            Err(error) => {
                if !std::mem::replace(&mut has_failed, true) {
                    tracing::error!(%error, "the disk takes no writes: this broker is no candidate for master");
                }
                file = None;
            }
        }
    }
}

fn write(shared: &Shared, file: &mut Option<Arc<dyn File>>) -> io::Result<()> {
    let open = match file {
        Some(open) => open,
        None => file.insert(shared.env.disk.open(ALIVE, OpenMode::Create)?),
    };
    open.write_all_at(&shared.now().as_millis().to_be_bytes(), 0)?;
    open.sync_data()
}
