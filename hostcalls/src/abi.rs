//! What the module imports: each call is counted, then answered from [`State`].

use wasmi::{Caller, Linker, Memory, Module, Val};

use crate::{Answer, Error, HttpCall, Map, Result, State, wire};

const OK: u32 = 0;
const NOT_FOUND: u32 = 1;
const BAD_ARGUMENT: u32 = 2;
const CAS_MISMATCH: u32 = 8;
const UNIMPLEMENTED: u32 = 12;

/// 2026-01-01T00:00:00Z, in nanoseconds since 1970: runs are alike.
const NOW: u64 = 1_767_225_600_000_000_000;

/// Links every import of the module.
pub fn link(linker: &mut Linker<State>, module: &Module) -> Result<()> {
    for import in module.imports() {
        let name = import.name().to_owned();
        let kind =
            import.ty().func().cloned().ok_or_else(|| Error::from(format!("`{name}` is no function")))?;
        linker.func_new(import.module(), import.name(), kind, move |mut caller, arguments, results| {
            caller.data_mut().calls.count(&name);
            let memory = caller.get_export("memory").and_then(wasmi::Extern::into_memory);
            let memory = memory.ok_or_else(|| wasmi::Error::new("no memory"))?;
            let status = Call { caller: &mut caller, memory, arguments }.answer(&name);
            let status = status.map_err(|error| wasmi::Error::new(error.to_string()))?;
            if let Some(result) = results.first_mut() {
                *result = Val::I32(status.cast_signed());
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// One call.
struct Call<'c, 'd> {
    caller: &'c mut Caller<'d, State>,
    memory: Memory,
    arguments: &'c [Val],
}

impl Call<'_, '_> {
    fn answer(&mut self, name: &str) -> Result<u32> {
        match name {
            "proxy_log" => {
                let line = self.text(1)?;
                self.state().log.push(line);
            }
            "proxy_get_current_time_nanoseconds" => self.store(0, &NOW.to_le_bytes())?,
            "proxy_get_property" => {
                let path = self.text(0)?.trim_end_matches('\0').replace('\0', ".");
                let value = self.state().properties.get(&path).cloned();
                return self.give_or_not_found(2, value);
            }
            "proxy_set_property" => {
                let (path, value) = (self.text(0)?.replace('\0', "."), self.bytes(2)?);
                self.state().properties.insert(format!("wasm.{path}"), value);
            }
            "proxy_get_header_map_pairs" => {
                let Some(map) = self.map()? else { return Ok(BAD_ARGUMENT) };
                let bytes = wire::write(map);
                return self.give(1, &bytes);
            }
            "proxy_get_header_map_value" => {
                let name = self.text(1)?;
                let Some(map) = self.map()? else { return Ok(BAD_ARGUMENT) };
                let value = map.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
                return self.give_or_not_found(3, value);
            }
            "proxy_replace_header_map_value" | "proxy_add_header_map_value" => {
                let (header, value) = (self.text(1)?, self.bytes(3)?);
                let Some(map) = self.map()? else { return Ok(BAD_ARGUMENT) };
                if name == "proxy_replace_header_map_value" {
                    map.retain(|(known, _)| *known != header);
                }
                map.push((header, value));
            }
            "proxy_remove_header_map_value" => {
                let header = self.text(1)?;
                let Some(map) = self.map()? else { return Ok(BAD_ARGUMENT) };
                map.retain(|(known, _)| *known != header);
            }
            "proxy_get_buffer_bytes" => {
                let state = self.caller.data();
                let bytes = match self.number(0)? {
                    4 => state.call_body.clone(),
                    7 => state.configuration.clone(),
                    _ => return Ok(NOT_FOUND),
                };
                return self.give(3, &bytes);
            }
            "proxy_get_shared_data" => {
                let key = self.text(0)?;
                let Some((value, version)) = self.state().shared.get(&key).cloned() else {
                    return Ok(NOT_FOUND);
                };
                self.store(4, &version.to_le_bytes())?;
                return self.give(2, &value);
            }
            "proxy_set_shared_data" => {
                let (key, value, version) = (self.text(0)?, self.bytes(2)?, self.number(4)?);
                let known = self.state().shared.get(&key).map_or(0, |(_, version)| *version);
                if version != 0 && version != known {
                    return Ok(CAS_MISMATCH);
                }
                self.state().shared.insert(key, (value, known + 1));
            }
            "proxy_define_metric" => {
                let name = self.text(1)?;
                let metrics = &mut self.state().metrics;
                let index = metrics.iter().position(|(known, _)| *known == name).unwrap_or(metrics.len());
                if index == metrics.len() {
                    metrics.push((name, 0));
                }
                self.store(3, &u32::try_from(index)?.to_le_bytes())?;
            }
            "proxy_increment_metric" => {
                let (index, offset) = (usize::try_from(self.number(0)?)?, self.wide(1)?);
                let Some((_, value)) = self.state().metrics.get_mut(index) else { return Ok(BAD_ARGUMENT) };
                *value += offset;
            }
            "proxy_record_metric" => {
                let (index, recorded) = (usize::try_from(self.number(0)?)?, self.wide(1)?);
                let Some((_, value)) = self.state().metrics.get_mut(index) else { return Ok(BAD_ARGUMENT) };
                *value = recorded;
            }
            "proxy_http_call" => {
                let (cluster, headers, body) = (self.text(0)?, self.bytes(2)?, self.bytes(4)?);
                let Some(headers) = wire::read(&headers) else { return Ok(BAD_ARGUMENT) };
                let state = self.state();
                state.tokens += 1;
                let (token, context) = (state.tokens, state.context);
                state.http_calls.push(HttpCall { token, context, cluster, headers, body });
                self.store(9, &token.to_le_bytes())?;
            }
            "proxy_send_local_response" => {
                let (status, body, headers) = (self.number(0)?, self.bytes(3)?, self.bytes(5)?);
                let Some(headers) = wire::read(&headers) else { return Ok(BAD_ARGUMENT) };
                self.state().answer = Some(Answer { status, headers, body });
            }
            "proxy_set_effective_context" => self.state().context = self.number(0)?,
            "proxy_set_tick_period_milliseconds" | "proxy_continue_stream" | "proxy_close_stream" => {}
            // Of WASI: no randomness but the same for every run, no environment, no output.
            "random_get" => {
                let length = usize::try_from(self.number(1)?)?;
                self.write(self.number(0)?, &vec![7; length])?;
            }
            "environ_sizes_get" => {
                self.store(0, &0u32.to_le_bytes())?;
                self.store(1, &0u32.to_le_bytes())?;
            }
            "environ_get" => {}
            "proc_exit" => return Err(Error::from("the module ended itself")),
            _ => return Ok(UNIMPLEMENTED),
        }
        Ok(OK)
    }

    fn state(&mut self) -> &mut State {
        self.caller.data_mut()
    }

    /// The map that the first argument names.
    fn map(&mut self) -> Result<Option<&mut Map>> {
        let number = self.number(0)?;
        let state = self.state();
        Ok(match number {
            0 => Some(&mut state.request),
            2 | 6 => Some(&mut state.response),
            _ => None,
        })
    }

    fn number(&self, index: usize) -> Result<u32> {
        let argument = self.arguments.get(index).and_then(Val::i32);
        argument
            .map(i32::cast_unsigned)
            .ok_or_else(|| Error::from(format!("argument {index} is no number of 32 bits")))
    }

    fn wide(&self, index: usize) -> Result<i64> {
        let argument = self.arguments.get(index).and_then(Val::i64);
        argument.ok_or_else(|| Error::from(format!("argument {index} is no number of 64 bits")))
    }

    /// Bytes whose address and length are this argument and the next.
    fn bytes(&self, index: usize) -> Result<Vec<u8>> {
        let (address, length) = (self.number(index)?, self.number(index + 1)?);
        let mut bytes = vec![0; usize::try_from(length)?];
        if length > 0 {
            self.memory.read(&self.caller, usize::try_from(address)?, &mut bytes)?;
        }
        Ok(bytes)
    }

    fn text(&self, index: usize) -> Result<String> {
        Ok(String::from_utf8(self.bytes(index)?)?)
    }

    /// Writes where an argument points.
    fn store(&mut self, index: usize, bytes: &[u8]) -> Result<()> {
        let address = self.number(index)?;
        self.write(address, bytes)
    }

    fn write(&mut self, address: u32, bytes: &[u8]) -> Result<()> {
        Ok(self.memory.write(&mut self.caller, usize::try_from(address)?, bytes)?)
    }

    fn give_or_not_found(&mut self, index: usize, value: Option<Vec<u8>>) -> Result<u32> {
        value.map_or(Ok(NOT_FOUND), |value| self.give(index, &value))
    }

    /// Data goes into memory that the module allocates; this argument and the next say where address and length go.
    fn give(&mut self, index: usize, bytes: &[u8]) -> Result<u32> {
        self.state().calls.returned_data += 1;
        let mut address = 0;
        if !bytes.is_empty() {
            let allocate = self.caller.get_export("proxy_on_memory_allocate");
            let allocate = allocate.and_then(wasmi::Extern::into_func);
            let allocate = allocate.ok_or_else(|| Error::from("the module allocates nothing"))?;
            let allocate = allocate.typed::<u32, u32>(&self.caller)?;
            address = allocate.call(&mut self.caller, u32::try_from(bytes.len())?)?;
            self.write(address, bytes)?;
        }
        self.store(index, &address.to_le_bytes())?;
        self.store(index + 1, &u32::try_from(bytes.len())?.to_le_bytes())?;
        Ok(OK)
    }
}
