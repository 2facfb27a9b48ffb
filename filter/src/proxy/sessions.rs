//! The sessions of this worker that are open. Requests inside a tunnel find theirs here by its packed form, which their
//! connection brings as a header: a property of Envoy's would cost each of them more than its verdict.
//!
//! A header may be a lie, but a packed session that is found here proves itself: its identifier is 64 random bits, and only
//! a client whose CONNECT was refused is told it. Where none is found, filter state counts, which no client can write.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use super::host;
use crate::session_state::{SessionState, SessionStateError};
use outgate_policy::{Destination, Identity};

thread_local! {
    static OPEN: RefCell<HashMap<Vec<u8>, Rc<OpenSession>>> = RefCell::new(HashMap::new());
}

/// A session, unpacked.
#[derive(Debug)]
pub struct OpenSession {
    /// As its CONNECT left it.
    pub state: SessionState,
    /// Where to.
    pub destination: Rc<Destination>,
    /// Who.
    pub identity: Identity,
    /// Whether its lines are written: it is one of the allowances that are logged, or no allowance.
    pub logged: Cell<bool>,
}

/// Takes the session off the list when its CONNECT ends.
#[derive(Debug)]
pub struct Registration {
    packed: Vec<u8>,
    session: Rc<OpenSession>,
}

impl OpenSession {
    /// A session with this state.
    pub fn new(state: SessionState, destination: Rc<Destination>, identity: Identity) -> Self {
        Self { logged: Cell::new(state.logged), state, destination, identity }
    }

    /// Puts it on the list.
    pub fn register(self, packed: String) -> Registration {
        let packed = packed.into_bytes();
        let session = Rc::new(self);
        OPEN.with_borrow_mut(|open| open.insert(packed.clone(), Rc::clone(&session)));
        Registration { packed, session }
    }

    /// The session with this packed form, if it is open.
    pub fn find(packed: &[u8]) -> Option<Rc<Self>> {
        OPEN.with_borrow(|open| open.get(packed).map(Rc::clone))
    }

    /// The session around this connection or request, by filter state. A VM that follows after a trap finds none that its
    /// predecessor opened, and unpacks them.
    pub fn of_connection() -> Result<Rc<Self>, SessionStateError> {
        let packed =
            host::property(&["filter_state", "outgate.session"]).ok_or(SessionStateError::Missing)?;
        match Self::find(&packed) {
            Some(session) => Ok(session),
            None => Self::unpack(&packed).map(Rc::new),
        }
    }

    fn unpack(packed: &[u8]) -> Result<Self, SessionStateError> {
        let state = SessionState::unpack(packed)?;
        let destination = state.destination().ok_or_else(|| SessionStateError::malformed(packed))?;
        let identity = state.identity();
        Ok(Self::new(state, Rc::new(destination), identity))
    }
}

impl Registration {
    /// Whether lines of it were written, or would have been.
    pub fn is_logged(&self) -> bool {
        self.session.logged.get()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        OPEN.with_borrow_mut(|open| open.remove(&self.packed));
    }
}
