//! Envoy's shared data: one state for all workers, changed by compare and swap.

use proxy_wasm::hostcalls;

use outgate_handshake::sampling::{Cell, Store};
use outgate_handshake::window::Window;

/// The state of one listener.
#[derive(Clone, Debug)]
pub struct Shared {
    listener: String,
}

/// More collisions than workers in a row mean that something else is wrong; the change is then made unconditionally.
const ATTEMPTS: usize = 1000;

impl Shared {
    /// Makes sure that every cell is there: a cell that is not cannot be compared.
    pub fn open(listener: &str) -> Self {
        let shared = Self { listener: listener.to_owned() };
        for key in Cell::all().map(|cell| shared.key(cell)).chain([shared.window_key()]) {
            if matches!(hostcalls::get_shared_data(&key), Ok((_, None))) {
                let _made = hostcalls::set_shared_data(&key, Some(&[]), None);
            }
        }
        shared
    }

    /// Changes the window that all workers share; `change` may run more than once.
    pub fn update_window<T>(&self, mut change: impl FnMut(&mut Window) -> T) -> T {
        swap(&self.window_key(), |bytes| {
            let mut window = Window::unpack(bytes);
            let result = change(&mut window);
            (window.pack(), result)
        })
    }

    fn key(&self, cell: Cell) -> String {
        match cell {
            Cell::Seen(index) => format!("handshake.{}.seen.{index}", self.listener),
            Cell::Counts(index) => format!("handshake.{}.counts.{index}", self.listener),
            Cell::Pace => format!("handshake.{}.pace", self.listener),
        }
    }

    fn window_key(&self) -> String {
        format!("handshake.{}.window", self.listener)
    }
}

impl Store for Shared {
    fn update<T>(&self, cell: Cell, mut change: impl FnMut(&mut Vec<u64>) -> T) -> T {
        swap(&self.key(cell), |bytes| {
            let mut words = words(bytes);
            let result = change(&mut words);
            (words.into_iter().flat_map(u64::to_le_bytes).collect(), result)
        })
    }

    fn read(&self, cell: Cell) -> Vec<u64> {
        let (bytes, _) = hostcalls::get_shared_data(&self.key(cell)).unwrap_or_default();
        words(&bytes.unwrap_or_default())
    }
}

fn swap<T>(key: &str, mut change: impl FnMut(&[u8]) -> (Vec<u8>, T)) -> T {
    let mut attempt = 0;
    loop {
        let (bytes, version) = hostcalls::get_shared_data(key).unwrap_or_default();
        let bytes = bytes.unwrap_or_default();
        let (changed, result) = change(&bytes);
        if changed == bytes {
            return result;
        }
        attempt += 1;
        let version = version.filter(|_| attempt < ATTEMPTS);
        if hostcalls::set_shared_data(key, Some(&changed), version).is_ok() {
            return result;
        }
    }
}

fn words(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect()
}
