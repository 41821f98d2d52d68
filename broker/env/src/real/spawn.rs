//! Operating system threads.

use std::{any::Any, io, thread};

use crate::{JoinHandle, Spawn};

/// One operating system thread for each body.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealSpawn;

impl Spawn for RealSpawn {
    fn thread(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<Box<dyn JoinHandle>> {
        if name.contains('\0') {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a thread cannot be named {name:?}: a name has no NUL")));
        }
        let handle = thread::Builder::new()
            .name(name.to_owned())
            .spawn(body)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot start thread {name}: {error}; look at the process's thread limit")))?;
        Ok(Box::new(Handle { name: name.to_owned(), handle }))
    }
}

struct Handle {
    name: String,
    handle: thread::JoinHandle<()>,
}

impl JoinHandle for Handle {
    fn join(self: Box<Self>) -> Result<(), String> {
        self.handle.join().map_err(|payload| format!("thread {} panicked: {}", self.name, message(payload.as_ref())))
    }
}

fn message(payload: &(dyn Any + Send)) -> &str {
    payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_carries_its_name() {
        let (send, receive) = std::sync::mpsc::channel();
        let body = Box::new(move || send.send(thread::current().name().map(str::to_owned)).unwrap());
        RealSpawn.thread("flusher", body).unwrap().join().unwrap();
        assert_eq!(receive.recv().unwrap().as_deref(), Some("flusher"));
    }

    #[test]
    fn a_panic_comes_out_of_join_with_its_message() {
        let error = RealSpawn.thread("doomed", Box::new(|| panic!("no such luck"))).unwrap().join().unwrap_err();
        assert_eq!(error, "thread doomed panicked: no such luck");
    }

    #[test]
    fn a_name_with_nul_is_refused_and_does_not_panic() {
        let result = RealSpawn.thread("a\0b", Box::new(|| ()));
        assert_eq!(result.err().map(|error| error.kind()), Some(io::ErrorKind::InvalidInput));
    }
}
