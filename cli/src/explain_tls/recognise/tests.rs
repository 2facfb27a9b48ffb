use super::*;

fn reasons(text: &str) -> Vec<&'static str> {
    recognise(text).iter().map(|reading| reading.failure.sub_reason.as_str()).collect()
}

#[test]
fn envoys_reasons_are_recognised_in_the_words_of_every_version() {
    for (text, expected) in [
        // 1.37 and later, as wasm and CEL have it.
        (
            "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify cert failed: X509_verify_cert: certificate verification error at depth 0: certificate has expired:TLS_error_end",
            "expired",
        ),
        // The same from a formatter.
        (
            "TLS_error:|268435581:SSL_routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify_cert_failed:_X509_verify_cert:_certificate_verification_error_at_depth_1:_unable_to_get_local_issuer_certificate:TLS_error_end",
            "unknown_issuer",
        ),
        // 1.38 and later.
        (
            "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify cert failed: X509_verify_cert: certificate verification error at depth 0: certificate revocation check against provided CRLs failed: certificate revoked, certificate CRL distribution points: [http://x/y]:TLS_error_end",
            "revoked",
        ),
        (
            "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify cert failed: SAN matcher, certificate SANs are [client.example]:TLS_error_end",
            "san_mismatch",
        ),
        // 1.29 to 1.36.
        (
            "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:TLS_error_end",
            "unspecified",
        ),
        (
            "TLS_error:|268435581:SSL_routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:TLS_error_end",
            "unspecified",
        ),
        ("TLS_error:|268435703:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER:TLS_error_end", "garbage"),
        (
            "TLS_error:|268435568:SSL routines:OPENSSL_internal:BAD_PACKET_LENGTH|268435595:SSL routines:OPENSSL_internal:DECRYPTION_FAILED_OR_BAD_RECORD_MAC:TLS_error_end",
            "client_rejected_server_certificate",
        ),
        // Before.
        (
            "TLS error: 268435648:SSL routines:OPENSSL_internal:PEER_DID_NOT_RETURN_A_CERTIFICATE",
            "no_client_certificate",
        ),
        (
            "TLS_error:_268435648:SSL_routines:OPENSSL_internal:PEER_DID_NOT_RETURN_A_CERTIFICATE",
            "no_client_certificate",
        ),
        (
            "TLS error: 33554536:system library:OPENSSL_internal:Connection reset by peer 33554464:system library:OPENSSL_internal:Broken pipe",
            "reset",
        ),
        ("TLS error: Secret is not supplied by SDS", "server_misconfigured"),
        // The inspector.
        ("TLS_error|error:1000009c:SSL routines:OPENSSL_internal:HTTP_REQUEST:TLS_error_end", "plain_http"),
        // Quoted, cut, or without its frame.
        ("\"TLS_error:|268435696:SSL routines:OPENSSL_internal:UNSUPPORTED_PRO", "client_version_too_old"),
        ("268435612:SSL routines:OPENSSL_internal:HTTP_REQUEST:TLS_error_end", "plain_http"),
        (
            "verify cert failed: X509_verify_cert: certificate verification error at depth 0: CRL has expired",
            "crl_expired",
        ),
        (
            "X509_verify_cert:_certificate_verification_error_at_depth_0:_self_signed_certificate",
            "self_signed",
        ),
        ("verify cert failed: cert hash and spki", "pin_mismatch"),
        ("transport_socket_timeout_was_reached", "timeout"),
        ("filter_chain_not_found", "sni_rejected"),
        // A certificate that lies.
        (
            "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify cert failed: SAN matcher, certificate SANs are [X509_verify_cert: certificate verification error at depth 0: certificate revoked:TLS_error_end|268435648:]:TLS_error_end",
            "san_mismatch",
        ),
        // Unknown, and not guessed.
        ("TLS_error:|268436400:SSL routines:OPENSSL_internal:A_NEW_ONE:TLS_error_end", "unclassified"),
    ] {
        assert_eq!(reasons(text), [expected], "{text}");
    }
}

#[test]
fn what_says_where_in_the_chain_is_told() {
    let readings = recognise(
        "verify cert failed: X509_verify_cert: certificate verification error at depth 2: certificate has expired",
    );
    assert_eq!(readings[0].failure.depth, Some(2));
    assert!(readings[0].text().contains("2 above the client's own"), "{}", readings[0].text());
}

#[test]
fn codes_are_recognised_whoever_wrote_them() {
    for (text, expected) in [
        // BoringSSL: decimal, hexadecimal, printed.
        ("268435581", &["unspecified"][..]),
        ("0x1000007d", &["unspecified"]),
        ("1000007D", &["unspecified"]),
        (
            "error:100000c0:SSL routines:OPENSSL_internal:PEER_DID_NOT_RETURN_A_CERTIFICATE",
            &["no_client_certificate"],
        ),
        (
            "error:10000416:SSL routines:OPENSSL_internal:SSLV3_ALERT_CERTIFICATE_UNKNOWN",
            &["client_rejected_server_certificate"],
        ),
        ("33554536", &["reset"]),
        // OpenSSL 3.
        ("0A0000C1", &["no_shared_cipher"]),
        ("167772353", &["no_shared_cipher"]),
        ("error:0A000126:SSL routines::unexpected eof while reading", &["closed_mid_handshake"]),
        ("error:0A00010B:SSL routines:ssl3_get_record:wrong version number", &["garbage"]),
        (
            "error:0A000102:SSL routines:tls_early_post_process_client_hello:unsupported protocol",
            &["client_version_too_old"],
        ),
        ("error:80000068:system library::Connection reset by peer", &["reset"]),
        // A client that verified the server.
        (
            "4007B86E9A7F0000:error:0A000086:SSL routines:tls_post_process_server_certificate:certificate verify failed:ssl/statem/statem_clnt.c:1890:",
            &["client_rejected_server_certificate"],
        ),
        // OpenSSL 1.1.
        (
            "error:1417C0C7:SSL routines:tls_process_client_certificate:peer did not return a certificate",
            &["no_client_certificate"],
        ),
        (
            "140047:error:1408F10B:SSL routines:ssl3_get_record:wrong version number:../ssl/record/ssl3_record.c:331:",
            &["garbage"],
        ),
        // Whether a server or a client wrote it, an alert of OpenSSL does not tell.
        (
            "error:0A000418:SSL routines:ssl3_read_bytes:tlsv1 alert unknown ca:ssl/record/rec_layer_s3.c:1584:SSL alert number 48",
            &["client_rejected_server_certificate", "unknown_issuer"],
        ),
        ("14094410", &["client_other_alert", "no_shared_cipher"]),
        // Verifications.
        ("verify error:num=18:self-signed certificate", &["self_signed"]),
        ("verify error:num=26:unsuitable certificate purpose", &["wrong_purpose"]),
        ("Verify return code: 10 (certificate has expired)", &["expired"]),
        (
            "2026/11/23 [info] 7#7: *1 client SSL certificate verify error: (23:certificate revoked) while reading",
            &["revoked"],
        ),
        // The numbers of the two libraries differ.
        ("verify error:num=24:invalid CA certificate", &["invalid_ca"]),
        ("verify error:num=66:EE certificate key too weak", &["weak_key_or_signature"]),
        ("verify error:num=79:invalid CA certificate", &["invalid_ca"]),
    ] {
        assert_eq!(reasons(text), expected, "{text}");
    }
}

#[test]
fn alerts_are_read_both_ways() {
    for (text, expected) in [
        ("alert 48", ["unknown_issuer", "client_rejected_server_certificate"]),
        ("SSL alert number 116", ["no_client_certificate", "client_other_alert"]),
        ("unknown_ca", ["unknown_issuer", "client_rejected_server_certificate"]),
        ("tlsv1 alert unknown ca", ["unknown_issuer", "client_rejected_server_certificate"]),
        ("TLSV1_ALERT_PROTOCOL_VERSION", ["client_version_too_old", "client_refused_version"]),
        ("UnknownCA", ["unknown_issuer", "client_rejected_server_certificate"]),
        ("received fatal alert: HandshakeFailure", ["no_shared_cipher", "client_other_alert"]),
        ("1048", ["unknown_issuer", "client_rejected_server_certificate"]),
        ("116", ["no_client_certificate", "client_other_alert"]),
    ] {
        assert_eq!(reasons(text), expected, "{text}");
    }
    let [sent, received] = &recognise("alert 45")[..] else { panic!("two readings") };
    assert_eq!(sent.failure.certainty, Certainty::Likely);
    assert_eq!(sent.or_else, [SubReason::NotYetValid, SubReason::CrlExpired, SubReason::CrlNotYetValid]);
    assert_eq!(received.failure.sub_reason, SubReason::ClientRejectedServerCertificate);
}

#[test]
fn a_small_number_is_everything_that_has_it() {
    for (text, expected) in [
        ("10", &["unexpected_message", "client_other_alert", "expired"][..]),
        // The libraries disagree.
        ("66", &["internal", "weak_key_or_signature"]),
        ("192", &["no_client_certificate"]),
        ("199", &["no_client_certificate"]),
        ("999", &[]),
    ] {
        assert_eq!(reasons(text), expected, "{text}");
    }
}

#[test]
fn names_and_texts_are_recognised() {
    for (text, expected) in [
        ("NO_SHARED_CIPHER", &["no_shared_cipher"][..]),
        ("SSL_R_CERTIFICATE_VERIFY_FAILED", &["unspecified"]),
        ("no suitable key share", &["no_shared_group"]),
        ("X509_V_ERR_CERT_HAS_EXPIRED", &["expired"]),
        ("CERT_HAS_EXPIRED", &["expired"]),
        ("certificate has expired", &["expired"]),
        ("unable to get local issuer certificate", &["unknown_issuer"]),
        ("self-signed certificate in certificate chain", &["self_signed_in_chain"]),
        ("SAN matcher", &["san_mismatch"]),
        ("crl_missing", &["crl_missing"]),
        // A sub-reason of ours comes before anything else of its name.
        (
            "protocol_version_mismatch",
            &["client_version_too_old", "client_version_too_new", "inappropriate_fallback"],
        ),
        ("server_error", &["server_misconfigured", "internal"]),
        ("my dog ate it", &[]),
        ("", &[]),
        ("TLS", &[]),
    ] {
        assert_eq!(reasons(text), expected, "{text}");
    }
}

#[test]
fn every_text_of_the_tables_is_recognised_alone_and_in_envoys_frame() {
    let framed = |text: &str| {
        format!("verify cert failed: X509_verify_cert: certificate verification error at depth 0: {text}")
    };
    for (number, text, sub_reason) in tables::VERIFY_ERRORS {
        assert_eq!(reasons(&framed(text)), [sub_reason.as_str()], "{text}");
        assert!(reasons(text).contains(&sub_reason.as_str()), "{text}");
        assert!(reasons(&number.to_string()).contains(&sub_reason.as_str()), "{number}");
    }
    for (number, text, sub_reason) in openssl::VERIFY_ERRORS {
        assert!(reasons(text).contains(&sub_reason.as_str()), "{text}");
        assert_eq!(reasons(&format!("verify error:num={number}:{text}")), [sub_reason.as_str()], "{text}");
    }
    for (sub_reason, names) in tables::SSL_REASONS {
        for (number, name) in *names {
            let packed = 0x1000_0000 + number;
            let reason = format!("TLS_error:|{packed}:SSL routines:OPENSSL_internal:{name}:TLS_error_end");
            for text in [&reason, &packed.to_string(), &format!("{packed:x}")] {
                assert_eq!(reasons(text), [sub_reason.as_str()], "{text}");
            }
        }
    }
    for (number, name) in openssl::SSL_REASONS {
        let boringssl = ssl_number(name).unwrap_or_else(|| panic!("{name} has no meaning"));
        let expected = reasons(&(0x1000_0000 + boringssl).to_string());
        assert_eq!(reasons(&format!("{:08X}", (20 << 23) + number)), expected, "{name}");
    }
}

#[test]
fn openssls_numbers_are_those_of_openssl() {
    let codes: Vec<String> =
        openssl::SSL_REASONS.iter().map(|(number, _)| format!("{:x}", (20 << 23) + number)).collect();
    let Ok(output) = std::process::Command::new("openssl").arg("errstr").args(&codes).output() else {
        eprintln!("skipped: no openssl");
        return;
    };
    let printed = String::from_utf8(output.stdout).unwrap();
    if !printed.starts_with("error:0A") {
        eprintln!("skipped: this openssl is not of version 3");
        return;
    }
    for (line, (_, name)) in printed.lines().zip(openssl::SSL_REASONS) {
        let text = line.rsplit(':').next().unwrap();
        assert_eq!(text.to_uppercase().replace([' ', '-'], "_"), *name, "{line}");
    }
    assert_eq!(printed.lines().count(), codes.len());
}

#[test]
fn no_text_makes_it_panic() {
    let seeds = [
        "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify cert failed: SAN matcher:TLS_error_end",
        "error:0A000418:SSL routines:ssl3_read_bytes:tlsv1 alert unknown ca",
        "verify error:num=10:certificate has expired",
        "TLS error: 268435648:SSL routines",
        "alert number 48",
    ];
    for seed in seeds {
        for end in 0..seed.len() {
            let (begin, rest) = seed.split_at(end);
            let _any = recognise(begin);
            let _any = recognise(&format!("{begin}\u{202e}\0é{rest}"));
            let _any = recognise(rest);
        }
    }
    for text in [
        "18446744073709551615",
        "18446744073709551616",
        "0x",
        "-1",
        "error:",
        "error:::",
        "99999999999999999999999",
    ] {
        let _any = recognise(text);
    }
}
