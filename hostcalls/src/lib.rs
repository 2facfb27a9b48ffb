//! A host of our own for outgate.wasm: it answers what the module asks of Envoy from what a test gave it, keeps what
//! the module leaves, and counts the calls by name. Requests are data; the order of calls is nobody's business.
//!
//! It implements ABI 0.2.1 of proxy-wasm as far as the module asks for it; a call beyond that answers
//! `Unimplemented`.

mod abi;
mod wire;

use std::collections::BTreeMap;
use std::path::Path;

use wasmi::{Engine, Instance, Linker, Module, Store, TypedFunc};

/// Why a run did not come to its end: a trap, mostly.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Of a run.
pub type Result<T> = std::result::Result<T, Error>;

/// Headers or trailers, in order.
pub type Map = Vec<(String, Vec<u8>)>;

/// What a context's callback returned, beside what it did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// The exchange goes on.
    Continue,
    /// It waits, or was answered.
    Pause,
}

/// An answer that the module gave in place of the origin.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// The status.
    pub status: u32,
    /// Its headers.
    pub headers: Map,
    /// Its body.
    pub body: Vec<u8>,
}

/// A call to a cluster that the module began.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HttpCall {
    /// Its token.
    pub token: u32,
    /// The context that waits for it.
    pub context: u32,
    /// The cluster.
    pub cluster: String,
    /// Its headers.
    pub headers: Map,
    /// Its body.
    pub body: Vec<u8>,
}

/// How often each call was made.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Calls {
    by_name: BTreeMap<String, u32>,
    returned_data: u32,
}

impl Calls {
    /// How often one was made.
    pub fn of(&self, name: &str) -> u32 {
        self.by_name.get(name).copied().unwrap_or(0)
    }

    /// How often data came back that the host had to allocate for inside the VM: about a microsecond each in Envoy.
    pub fn returning_data(&self) -> u32 {
        self.returned_data
    }

    /// Every call with its count.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u32)> {
        self.by_name.iter().map(|(name, count)| (name.as_str(), *count))
    }

    fn count(&mut self, name: &str) {
        *self.by_name.entry(name.to_owned()).or_default() += 1;
    }
}

/// What the host knows, and what the module left with it.
#[derive(Debug, Default)]
pub struct State {
    /// The plugin configuration of the root context that is configured.
    configuration: Vec<u8>,
    /// Properties by their path, joined with dots.
    pub properties: BTreeMap<String, Vec<u8>>,
    /// Headers of the request.
    pub request: Map,
    /// Headers of the response.
    pub response: Map,
    /// The body of the response to the module's own call.
    call_body: Vec<u8>,
    /// Shared data with their versions, which outlive a VM.
    pub shared: BTreeMap<String, (Vec<u8>, u32)>,
    /// Metrics by id.
    metrics: Vec<(String, i64)>,
    /// Calls that wait for a response.
    pub http_calls: Vec<HttpCall>,
    tokens: u32,
    /// Lines that the module logged.
    pub log: Vec<String>,
    /// What it answered in place of the origin.
    pub answer: Option<Answer>,
    /// What was asked.
    calls: Calls,
    context: u32,
}

impl State {
    /// A metric's value.
    pub fn metric(&self, name: &str) -> Option<i64> {
        self.metrics.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }

    /// A header of the request as it goes on.
    pub fn request_header(&self, name: &str) -> Option<&[u8]> {
        self.request.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice())
    }
}

/// A VM with outgate.wasm in it.
pub struct Host {
    store: Store<State>,
    instance: Instance,
    contexts: u32,
}

/// A module that can be started many times.
#[derive(Clone)]
pub struct Outgate(Engine, Module);

impl Outgate {
    /// Compiles a module.
    ///
    /// # Errors
    ///
    /// It is not there, or is no wasm.
    pub fn load(path: &Path) -> Result<Self> {
        let engine = Engine::default();
        let module = Module::new(&engine, std::fs::read(path)?)?;
        Ok(Self(engine, module))
    }

    /// Starts a VM.
    ///
    /// # Errors
    ///
    /// The module asks for what no host has, or traps at its start.
    pub fn start(&self) -> Result<Host> {
        let mut linker = Linker::new(&self.0);
        abi::link(&mut linker, &self.1)?;
        let mut store = Store::new(&self.0, State::default());
        let instance = linker.instantiate_and_start(&mut store, &self.1)?;
        let mut host = Host { store, instance, contexts: 0 };
        host.call::<(), ()>("_initialize", ())?;
        Ok(host)
    }
}

impl Host {
    /// What the host knows.
    pub fn state(&mut self) -> &mut State {
        self.store.data_mut()
    }

    /// What was asked since the last time, by name.
    pub fn take_calls(&mut self) -> Calls {
        std::mem::take(&mut self.state().calls)
    }

    /// A root context, configured; its number, unless the module refused the configuration.
    ///
    /// # Errors
    ///
    /// The module trapped.
    pub fn root(&mut self, root_id: &str, configuration: &[u8]) -> Result<Option<u32>> {
        self.state().properties.insert("plugin_root_id".to_owned(), root_id.as_bytes().to_vec());
        self.state().configuration = configuration.to_vec();
        let root = self.context(0)?;
        let size = u32::try_from(configuration.len())?;
        let started: u32 = self.call("proxy_on_vm_start", (root, 0u32))?;
        let configured: u32 = self.call("proxy_on_configure", (root, size))?;
        Ok((started == 1 && configured == 1).then_some(root))
    }

    /// A context below a root context.
    ///
    /// # Errors
    ///
    /// The module trapped.
    pub fn context(&mut self, root: u32) -> Result<u32> {
        self.contexts += 1;
        let context = self.contexts;
        self.state().context = context;
        self.call::<_, ()>("proxy_on_context_create", (context, root))?;
        Ok(context)
    }

    /// The headers of a request.
    ///
    /// # Errors
    ///
    /// The module trapped.
    pub fn request_headers(&mut self, context: u32) -> Result<Action> {
        let count = u32::try_from(self.state().request.len())?;
        self.headers("proxy_on_request_headers", context, count)
    }

    /// The headers of its response.
    ///
    /// # Errors
    ///
    /// The module trapped.
    pub fn response_headers(&mut self, context: u32) -> Result<Action> {
        let count = u32::try_from(self.state().response.len())?;
        self.headers("proxy_on_response_headers", context, count)
    }

    /// The end of an exchange: its log, and its context's end.
    ///
    /// # Errors
    ///
    /// The module trapped.
    pub fn end(&mut self, context: u32) -> Result<()> {
        self.state().context = context;
        self.call::<_, ()>("proxy_on_log", context)?;
        self.call::<_, ()>("proxy_on_delete", context)
    }

    /// The response to a call that the module began.
    ///
    /// # Errors
    ///
    /// The module trapped.
    pub fn call_response(&mut self, call: &HttpCall, status: &str, body: &[u8]) -> Result<()> {
        self.state().http_calls.retain(|waiting| waiting.token != call.token);
        self.state().call_body = body.to_vec();
        self.state().response = vec![(":status".to_owned(), status.as_bytes().to_vec())];
        self.state().context = call.context;
        let size = u32::try_from(body.len())?;
        self.call::<_, ()>("proxy_on_http_call_response", (call.context, call.token, 1u32, size, 0u32))
    }

    fn headers(&mut self, callback: &str, context: u32, count: u32) -> Result<Action> {
        self.state().context = context;
        let action: u32 = self.call(callback, (context, count, 1u32))?;
        Ok(if action == 0 { Action::Continue } else { Action::Pause })
    }

    fn call<P: wasmi::WasmParams, R: wasmi::WasmResults>(&mut self, name: &str, parameters: P) -> Result<R> {
        let function: TypedFunc<P, R> = self.instance.get_typed_func(&mut self.store, name)?;
        Ok(function.call(&mut self.store, parameters)?)
    }
}
