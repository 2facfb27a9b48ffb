//! What a pasted text is: Envoy's reason, a code of BoringSSL or OpenSSL, an alert, a verification error, a name.

use outgate_handshake::classify::{Evidence, classify};
use outgate_handshake::tables;
use outgate_handshake::taxonomy::{Certainty, SubReason};

use super::alert::Alert;
use super::openssl;
use super::reading::Reading;

/// BoringSSL's `CERTIFICATE_VERIFY_FAILED`, packed.
const VERIFY_FAILED: &str = "268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED";
/// BoringSSL's library number of TLS, in a packed code.
const BORINGSSL_TLS: u64 = 0x1000_0000;
/// OpenSSL's library number of TLS.
const OPENSSL_TLS: u64 = 20;
const ALERT_RECEIVED: u64 = tables::ALERT_RECEIVED as u64;

/// How Envoy's reasons begin: since 1.27 or so, of its inspector, before, and before with underscores.
const ENVOY: [&str; 4] = ["TLS_error:|", "TLS_error|error:", "TLS error:", "TLS_error:_"];

/// Every way to understand a text, the best first; none if it is nothing that is known.
pub fn recognise(text: &str) -> Vec<Reading> {
    let text = text.trim().trim_matches(['"', '\'', '`']).trim();
    let ways = [found, without_frame, numbered, named];
    ways.iter().map(|way| way(text)).find(|readings| !readings.is_empty()).unwrap_or_default()
}

/// What a line of a log tells somewhere within it.
pub fn in_line(text: &str) -> Option<Reading> {
    found(text).into_iter().next()
}

/// What is found anywhere in a text. Nothing short is looked for: it would be found everywhere.
fn found(text: &str) -> Vec<Reading> {
    if let Some(reading) = envoy(text).or_else(|| connection_end(text)) {
        return vec![reading];
    }
    let printed = printed(text);
    if printed.is_empty() { verification(text).into_iter().collect() } else { printed }
}

fn envoy(text: &str) -> Option<Reading> {
    let start = ENVOY.iter().filter_map(|beginning| text.find(beginning)).min()?;
    let reason = text.get(start..)?;
    let taken_for = if is_upstream(text.get(..start)?) {
        "Envoy's reason of an upstream connection: Envoy is the client there, read the roles the other way round"
    } else {
        "Envoy's reason (%DOWNSTREAM_TRANSPORT_FAILURE_REASON%)"
    };
    let old;
    let reason = if reason.starts_with("TLS_error:|") || reason.starts_with("TLS_error|") {
        reason
    } else {
        old = queue_of_old(reason).unwrap_or_else(|| reason.to_owned());
        &old
    };
    classified(taken_for, reason)
}

/// Whether what stands before a reason says that it is of an upstream connection.
pub fn is_upstream(before: &str) -> bool {
    ["upstream_reset_before_response_started{", "transport failure reason:", "transport_failure_reason:_"]
        .iter()
        .any(|words| before.contains(words))
}

/// `TLS error: 268435581:SSL routines:OPENSSL_internal:… 33554536:…` as later Envoys write it.
fn queue_of_old(reason: &str) -> Option<String> {
    let reason = reason.split('"').next()?;
    let codes: Vec<_> = reason
        .split([' ', '_'])
        .filter_map(|word| word.split_once(':'))
        .map(|(first, _)| first)
        .filter(|first| first.len() >= 6 && first.bytes().all(|byte| byte.is_ascii_digit()))
        .map(|code| format!("{code}:::"))
        .collect();
    (!codes.is_empty()).then(|| format!("TLS_error:|{}", codes.join("|")))
}

/// How Envoy ends connections without a reason.
fn connection_end(text: &str) -> Option<Reading> {
    for timeout in ["transport socket timeout was reached", "transport_socket_timeout_was_reached"] {
        if text.contains(timeout) {
            let evidence = Evidence { termination_details: timeout, ..Evidence::default() };
            let taken_for = "Envoy's end of a connection (%CONNECTION_TERMINATION_DETAILS%)";
            return Some(Reading::new(taken_for, classify(&evidence)?));
        }
    }
    if text.contains("filter_chain_not_found") {
        let evidence = Evidence { code_details: "filter_chain_not_found", ..Evidence::default() };
        let taken_for = "Envoy's end of a connection (%RESPONSE_CODE_DETAILS%)";
        return Some(Reading::new(taken_for, classify(&evidence)?));
    }
    None
}

/// `error:1000007d:SSL routines:OPENSSL_internal:…` and `error:0A000086:SSL routines:tls_process_…:…`
fn printed(text: &str) -> Vec<Reading> {
    let after_each = text.match_indices("error:").filter_map(|(at, word)| text.get(at + word.len()..));
    after_each
        .filter_map(|after| {
            let (digits, rest) = after.split_once(':')?;
            let code = u64::from_str_radix(digits, 16).ok().filter(|_| (6..=8).contains(&digits.len()))?;
            Some(packed(code, rest))
        })
        .find(|readings| !readings.is_empty())
        .unwrap_or_default()
}

/// A packed code, and what was printed after it: library, function, reason.
fn packed(code: u64, printed: &str) -> Vec<Reading> {
    const OPENSSL_3_ERRNO: u64 = 0x8000_0000;
    const LINUX: u64 = 0x0200_0000;
    if code >> 24 == BORINGSSL_TLS >> 24 || code >> 24 == LINUX >> 24 {
        return boringssl(code).into_iter().collect();
    }
    if code & OPENSSL_3_ERRNO != 0 {
        let taken_for = format!("OpenSSL's {code:08X}, an error of the system");
        let reading = boringssl(LINUX | (code & 0xfff));
        return reading.map(|reading| Reading { taken_for, ..reading }).into_iter().collect();
    }
    // 3.x and later, then 1.x: eight bits of library above 23 bits, or above 24.
    let (version, reason) = if (code >> 23) & 0xff == OPENSSL_TLS {
        ("3", code & 0x7f_ffff)
    } else if code >> 24 == OPENSSL_TLS {
        ("1", code & 0xfff)
    } else {
        return Vec::new();
    };
    let mut readings = openssl_reason(reason);
    for reading in &mut readings {
        if printed.contains("server_certificate") && reading.failure.sub_reason == SubReason::Unspecified {
            // Functions of a client: it is the server's certificate that failed.
            let taken_for = format!("{}, in a client", reading.taken_for);
            *reading = Reading::exact(taken_for, SubReason::ClientRejectedServerCertificate);
        }
        reading.taken_for = format!("OpenSSL {version}'s {code:08X}: {}", reading.taken_for);
    }
    readings
}

/// A packed code of BoringSSL, as the classifier takes it.
fn boringssl(code: u64) -> Option<Reading> {
    let mut reading = classified("", &format!("TLS_error:|{code}:::TLS_error_end"))?;
    let name = ssl_name(code & 0xfff).filter(|_| code >> 24 == BORINGSSL_TLS >> 24);
    reading.taken_for = match name {
        Some(name) => format!("BoringSSL's {code} (0x{code:x}): {name}"),
        None => format!("BoringSSL's {code} (0x{code:x})"),
    };
    Some(reading)
}

/// An `SSL_R_*` of OpenSSL by its number. Of an alert it does not say whether a server or a client received it.
fn openssl_reason(reason: u64) -> Vec<Reading> {
    if reason >= ALERT_RECEIVED {
        let mut readings = Alert::numbered(reason - ALERT_RECEIVED).map(alert_readings).unwrap_or_default();
        readings.reverse();
        return readings;
    }
    let Ok(number) = u32::try_from(reason) else { return Vec::new() };
    let other = openssl::OTHER_SSL_REASONS.iter().find(|(known, ..)| *known == number);
    if let Some((_, text, sub_reason)) = other {
        return vec![Reading::exact(format!("SSL_R {number}, {text}"), *sub_reason)];
    }
    let named = openssl::SSL_REASONS.iter().find(|(known, _)| *known == number);
    let reading = named.and_then(|(_, name)| {
        let reading = boringssl(BORINGSSL_TLS | u64::from(ssl_number(name)?))?;
        let elsewhere = match reading.failure.sub_reason {
            SubReason::Unspecified => "; the `verify error` beside it says why",
            _ => "",
        };
        Some(Reading { taken_for: format!("SSL_R {number}, {name}{elsewhere}"), ..reading })
    });
    reading.into_iter().collect()
}

/// `verify error:num=10:…` (openssl), `verify error: (10:…)` (nginx), `Verify return code: 10 (…)`.
fn verification(text: &str) -> Option<Reading> {
    let rest = ["verify error:num=", "verify error: (", "Verify return code: "]
        .iter()
        .find_map(|beginning| text.split_once(beginning).map(|(_, rest)| rest))?;
    let digits = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
    let (number, told) = rest.split_at(digits);
    let number: u32 = number.parse().ok()?;
    let readings = verify_errors(number);
    // The numbers of the two libraries differ, the text tells which it was.
    let told = told.trim_start_matches([':', ' ', '(']);
    let by_text = readings.iter().find(|(text, _)| told.starts_with(text));
    by_text.or_else(|| readings.first()).map(|(text, sub_reason)| {
        Reading::exact(
            format!("X509_V_ERR {number}, {text}: of whoever's certificate was verified"),
            *sub_reason,
        )
    })
}

/// What a number of `X509_V_ERR_*` means in BoringSSL, and in OpenSSL if that is something else.
fn verify_errors(number: u32) -> Vec<(&'static str, SubReason)> {
    let of = |table: &[(u32, &'static str, SubReason)]| {
        table.iter().find(|(known, ..)| *known == number).map(|(_, text, sub_reason)| (*text, *sub_reason))
    };
    of(tables::VERIFY_ERRORS).into_iter().chain(of(openssl::VERIFY_ERRORS)).collect()
}

/// Envoy's words without `TLS_error:|` before them: from the code on, or from the detail on.
fn without_frame(text: &str) -> Vec<Reading> {
    let spaced = text.replace('_', " ");
    let framed = if text
        .split_once(':')
        .is_some_and(|(code, _)| code.len() >= 8 && code.bytes().all(|byte| byte.is_ascii_digit()))
    {
        format!("TLS_error:|{text}")
    } else if ["verify cert failed: ", "X509 verify cert: "].iter().any(|words| spaced.starts_with(words)) {
        format!("TLS_error:|{VERIFY_FAILED}:{text}:TLS_error_end")
    } else {
        return Vec::new();
    };
    let taken_for = "part of Envoy's reason (%DOWNSTREAM_TRANSPORT_FAILURE_REASON%)";
    classified(taken_for, &framed).into_iter().collect()
}

fn classified(taken_for: &str, reason: &str) -> Option<Reading> {
    let failure = classify(&Evidence { reason, ..Evidence::default() })?;
    let or_else = match failure.certainty {
        // The one ambiguity that the classifier itself knows: a lost alert, or damage.
        Certainty::Likely if failure.sub_reason == SubReason::ClientRejectedServerCertificate => {
            vec![SubReason::RecordError]
        }
        _ => Vec::new(),
    };
    Some(Reading { or_else, ..Reading::new(taken_for, failure) })
}

/// A number alone: a packed code if it is large, else whatever has this number.
fn numbered(text: &str) -> Vec<Reading> {
    let lower = text.to_ascii_lowercase();
    let (alerts_only, digits) = match lower.rsplit_once("alert") {
        Some((_, rest)) => {
            (true, rest.trim_start_matches([' ', ':', '=']).trim_start_matches("number").trim())
        }
        None => (false, lower.trim_start_matches("num=").trim_start_matches("code").trim()),
    };
    let hexadecimal = || u64::from_str_radix(digits.trim_start_matches("0x"), 16).ok();
    let Some(number) = digits.parse().ok().or_else(hexadecimal) else { return Vec::new() };
    if alerts_only {
        return Alert::numbered(number).map(alert_readings).unwrap_or_default();
    }
    if number > 0xffff {
        let readings = packed(number, "");
        return match hexadecimal() {
            Some(number) if readings.is_empty() => packed(number, ""),
            _ => readings,
        };
    }
    small(number)
}

fn small(number: u64) -> Vec<Reading> {
    let mut readings: Vec<Reading> = Alert::numbered(number).map(alert_readings).unwrap_or_default();
    if let Ok(number) = u32::try_from(number) {
        readings.extend(verify_errors(number).into_iter().map(|(text, sub_reason)| {
            Reading::exact(format!("the verification error X509_V_ERR {number}, {text}"), sub_reason)
        }));
    }
    if number >= ALERT_RECEIVED {
        readings.extend(Alert::numbered(number - ALERT_RECEIVED).map(alert_readings).unwrap_or_default());
    } else {
        let of_boringssl = ssl_name(number).and_then(|_| boringssl(BORINGSSL_TLS | number));
        readings.extend(of_boringssl);
        readings.extend(
            openssl_reason(number)
                .into_iter()
                .map(|reading| Reading { taken_for: format!("OpenSSL's {}", reading.taken_for), ..reading }),
        );
    }
    readings
}

/// What an alert means if the server sent it, and if the client did.
fn alert_readings(alert: &'static Alert) -> Vec<Reading> {
    let Alert { number, name, sent } = alert;
    let by_server = Reading::any_of(
        format!("alert {number} {name}, sent by the server: it is in the client's log"),
        sent,
    );
    let by_client = boringssl(BORINGSSL_TLS | (ALERT_RECEIVED + u64::from(*number))).map(|reading| Reading {
        taken_for: format!("alert {number} {name}, sent by the client: it is in the server's log"),
        ..reading
    });
    by_server.into_iter().chain(by_client).collect()
}

/// A name alone: an alert, a constant or a text of the libraries, a category or sub-reason of ours.
fn named(text: &str) -> Vec<Reading> {
    let whole = normal(text);
    let mut name = whole.as_str();
    for prefix in ["ssl_r_", "x509_v_err_", "received_fatal_", "sslv3_", "tlsv1_", "tlsv13_"] {
        name = name.strip_prefix(prefix).unwrap_or(name);
    }
    let alert = name.strip_prefix("alert_");
    let alerts = Alert::named(alert.unwrap_or(name)).map(alert_readings).unwrap_or_default();
    if alert.is_some() {
        return alerts;
    }
    let mut readings = Vec::new();
    readings.extend(
        SubReason::ALL
            .iter()
            .filter(|known| known.as_str() == name)
            .map(|known| Reading::exact(format!("the sub-reason {known} of Outgate"), *known)),
    );
    readings.extend(alerts);
    let verify = tables::VERIFY_ERRORS.iter().chain(openssl::VERIFY_ERRORS);
    let symbol = openssl::VERIFY_SYMBOLS.iter().find(|(_, symbol)| normal(symbol) == name);
    let mut verified: Vec<_> = verify
        .filter(|(_, text, _)| normal(text) == name)
        .map(|(number, text, sub_reason)| (*number, *text, *sub_reason))
        .collect();
    verified.extend(symbol.and_then(|(number, _)| {
        let (text, sub_reason) = verify_errors(*number).into_iter().next()?;
        Some((*number, text, sub_reason))
    }));
    verified.dedup_by_key(|(_, _, sub_reason)| *sub_reason);
    readings.extend(verified.into_iter().map(|(number, text, sub_reason)| {
        Reading::exact(format!("the verification error X509_V_ERR {number}, {text}"), sub_reason)
    }));
    let validators = tables::VALIDATORS.iter().chain(tables::OTHER_VERIFY_ERRORS);
    if readings.is_empty() {
        readings.extend(validators.filter(|(text, _)| normal(text) == name).map(|(text, sub_reason)| {
            Reading::exact(format!("`{text}`, of a certificate's verification"), *sub_reason)
        }));
    }
    if let Some(number) = ssl_number(&name.to_ascii_uppercase()) {
        readings.extend(boringssl(BORINGSSL_TLS | u64::from(number)));
    }
    let other = openssl::OTHER_SSL_REASONS.iter().find(|(_, text, _)| normal(text) == name);
    readings.extend(other.map(|(number, text, sub_reason)| {
        Reading::exact(format!("OpenSSL's SSL_R {number}, {text}"), *sub_reason)
    }));
    if readings.is_empty() {
        let members = SubReason::ALL.iter().filter(|known| known.category().as_str() == name);
        readings.extend(
            members.map(|known| Reading::exact(format!("of the category {name} of Outgate"), *known)),
        );
    }
    // Many names are shared; one reading of each meaning will do.
    let mut meanings = Vec::new();
    readings.retain(|reading| {
        let new = !meanings.contains(&reading.failure.sub_reason);
        meanings.push(reading.failure.sub_reason);
        new
    });
    readings
}

/// Lower-case words joined by underscores: `UnknownCA`, `unknown ca` and `unknown-ca` are one.
fn normal(text: &str) -> String {
    let mut normal = String::with_capacity(text.len());
    let mut after_lower = false;
    for character in text.trim().chars() {
        if character.is_ascii_uppercase() && after_lower {
            normal.push('_');
        }
        after_lower = character.is_ascii_lowercase();
        if character.is_alphanumeric() {
            normal.extend(character.to_lowercase());
        } else if !normal.ends_with('_') && !normal.is_empty() {
            normal.push('_');
        }
    }
    normal.trim_end_matches('_').to_owned()
}

fn ssl_name(number: u64) -> Option<&'static str> {
    ssl_names().find(|(known, _)| u64::from(*known) == number).map(|(_, name)| name)
}

fn ssl_number(name: &str) -> Option<u32> {
    ssl_names().find(|(_, known)| *known == name).map(|(number, _)| number)
}

/// BoringSSL's `SSL_R_*`. The one that has no meaning of its own is not in the classifier's table.
fn ssl_names() -> impl Iterator<Item = (u32, &'static str)> {
    let verify_failed = (tables::CERTIFICATE_VERIFY_FAILED, "CERTIFICATE_VERIFY_FAILED");
    tables::SSL_REASONS.iter().flat_map(|(_, names)| names.iter().copied()).chain([verify_failed])
}

#[cfg(test)]
mod tests;
