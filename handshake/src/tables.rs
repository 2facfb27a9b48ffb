//! What BoringSSL's and Envoy's words mean, row by row as it is documented.

use crate::taxonomy::SubReason::{self, *};

/// `CERTIFICATE_VERIFY_FAILED`: the detail says which verification.
pub const CERTIFICATE_VERIFY_FAILED: u32 = 125;
/// `BAD_PACKET_LENGTH`
pub const BAD_PACKET_LENGTH: u32 = 112;
/// `DECRYPTION_FAILED_OR_BAD_RECORD_MAC`
pub const DECRYPTION_FAILED_OR_BAD_RECORD_MAC: u32 = 139;
/// `WRONG_VERSION_NUMBER`: garbage as the first record, a record error later.
pub const WRONG_VERSION_NUMBER: u32 = 247;
/// `UNSUPPORTED_PROTOCOL`: too old or too new.
pub const UNSUPPORTED_PROTOCOL: u32 = 240;
/// Reasons from here on are alerts that were received: the alert is the reason less this.
pub const ALERT_RECEIVED: u32 = 1000;

/// BoringSSL's `SSL_R_*`: what they mean, number and name.
pub const SSL_REASONS: &[(SubReason, &[(u32, &str)])] = &[
    (NoClientCertificate, &[(192, "PEER_DID_NOT_RETURN_A_CERTIFICATE")]),
    (MalformedCertificate, &[(272, "CANNOT_PARSE_LEAF_CERT"), (127, "CERT_LENGTH_MISMATCH")]),
    (
        WrongPurpose,
        &[
            (228, "UNKNOWN_CERTIFICATE_TYPE"),
            (241, "WRONG_CERTIFICATE_TYPE"),
            (334, "UNSUPPORTED_CERTIFICATE"),
            (302, "KEY_USAGE_BIT_INCORRECT"),
            (144, "ECC_CERT_NOT_FOR_SIGNING"),
        ],
    ),
    (
        BadClientSignature,
        &[(114, "BAD_SIGNATURE"), (245, "WRONG_SIGNATURE_TYPE"), (142, "DIGEST_CHECK_FAILED")],
    ),
    (
        ClientVersionTooOld,
        &[
            (240, "UNSUPPORTED_PROTOCOL"),
            (246, "WRONG_SSL_VERSION"),
            (234, "UNKNOWN_SSL_VERSION"),
            (233, "UNKNOWN_PROTOCOL"),
            (280, "NO_SUPPORTED_VERSIONS_ENABLED"),
        ],
    ),
    (
        InappropriateFallback,
        &[(157, "INAPPROPRIATE_FALLBACK"), (254, "DOWNGRADE_DETECTED"), (297, "TLS13_DOWNGRADE")],
    ),
    (PlainHttp, &[(156, "HTTP_REQUEST")]),
    (HttpProxyConnect, &[(155, "HTTPS_PROXY_REQUEST")]),
    (Garbage, &[(247, "WRONG_VERSION_NUMBER")]),
    (
        NoSharedCipher,
        &[
            (184, "NO_SHARED_CIPHER"),
            (176, "NO_CIPHERS_PASSED"),
            (262, "NO_CIPHERS_SPECIFIED"),
            (148, "ERROR_IN_RECEIVED_CIPHER_LIST"),
            (177, "NO_CIPHER_MATCH"),
        ],
    ),
    (
        NoSharedGroup,
        &[
            (266, "NO_SHARED_GROUP"),
            (243, "WRONG_CURVE"),
            (239, "UNSUPPORTED_ELLIPTIC_CURVE"),
            (258, "MISSING_KEY_SHARE"),
            (264, "DUPLICATE_KEY_SHARE"),
            (108, "BAD_ECPOINT"),
        ],
    ),
    (NoCommonSignatureAlgorithm, &[(253, "NO_COMMON_SIGNATURE_ALGORITHMS")]),
    (AlpnMismatch, &[(307, "NO_APPLICATION_PROTOCOL"), (259, "INVALID_ALPN_PROTOCOL")]),
    (
        SniRejected,
        &[
            (133, "CONNECTION_REJECTED"),
            (213, "SSL3_EXT_INVALID_SERVERNAME"),
            (174, "NO_CERTIFICATE_SET"),
            (126, "CERT_CB_ERROR"),
            (323, "NO_MATCHING_ISSUER"),
        ],
    ),
    (
        MissingOrBadExtension,
        &[
            (164, "MISSING_EXTENSION"),
            (222, "UNEXPECTED_EXTENSION"),
            (257, "DUPLICATE_EXTENSION"),
            (149, "ERROR_PARSING_EXTENSION"),
            (190, "PARSE_TLSEXT"),
            (132, "CLIENTHELLO_TLSEXT"),
            (256, "INVALID_COMPRESSION_LIST"),
            (178, "NO_COMPRESSION_SPECIFIED"),
            (238, "UNSUPPORTED_COMPRESSION_ALGORITHM"),
        ],
    ),
    (
        MalformedHandshake,
        &[
            (131, "CLIENTHELLO_PARSE_FAILED"),
            (137, "DECODE_ERROR"),
            (162, "LENGTH_MISMATCH"),
            (112, "BAD_PACKET_LENGTH"),
            (111, "BAD_LENGTH"),
            (150, "EXCESSIVE_MESSAGE_SIZE"),
            (151, "EXTRA_DATA_IN_MESSAGE"),
            (255, "EXCESS_HANDSHAKE_DATA"),
            (251, "INVALID_OUTER_RECORD_TYPE"),
        ],
    ),
    (
        UnexpectedMessage,
        &[
            (223, "UNEXPECTED_MESSAGE"),
            (225, "UNEXPECTED_RECORD"),
            (124, "CCS_RECEIVED_EARLY"),
            (103, "BAD_CHANGE_CIPHER_SPEC"),
            (100, "APP_DATA_IN_HANDSHAKE"),
            (109, "BAD_HANDSHAKE_RECORD"),
            (303, "INCONSISTENT_CLIENT_HELLO"),
            (102, "BAD_ALERT"),
            (227, "UNKNOWN_ALERT_TYPE"),
            (220, "TOO_MANY_WARNING_ALERTS"),
        ],
    ),
    (
        RecordError,
        &[
            (139, "DECRYPTION_FAILED_OR_BAD_RECORD_MAC"),
            (138, "DECRYPTION_FAILED"),
            (200, "RECORD_TOO_LARGE"),
            (146, "ENCRYPTED_LENGTH_TOO_LONG"),
            (136, "DATA_LENGTH_TOO_LONG"),
            (219, "TOO_MANY_EMPTY_FRAGMENTS"),
        ],
    ),
    (
        RenegotiationRefused,
        &[
            (182, "NO_RENEGOTIATION"),
            (236, "UNSAFE_LEGACY_RENEGOTIATION_DISABLED"),
            (202, "RENEGOTIATION_MISMATCH"),
            (201, "RENEGOTIATION_ENCODING_ERR"),
        ],
    ),
    (
        SessionOrPsk,
        &[
            (195, "PSK_IDENTITY_NOT_FOUND"),
            (271, "PSK_IDENTITY_BINDER_COUNT_MISMATCH"),
            (267, "PRE_SHARED_KEY_MUST_BE_LAST"),
            (204, "RESUMED_EMS_SESSION_WITHOUT_EMS_EXTENSION"),
            (268, "OLD_SESSION_PRF_HASH_MISMATCH"),
            (300, "TOO_MUCH_READ_EARLY_DATA"),
            (270, "TOO_MUCH_SKIPPED_EARLY_DATA"),
        ],
    ),
    (
        Ech,
        &[
            (314, "INVALID_CLIENT_HELLO_INNER"),
            (320, "INVALID_OUTER_EXTENSION"),
            (321, "INCONSISTENT_ECH_NEGOTIATION"),
        ],
    ),
    (
        ClientRejectedServerCertificate,
        &[
            (1042, "SSLV3_ALERT_BAD_CERTIFICATE"),
            (1043, "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE"),
            (1044, "SSLV3_ALERT_CERTIFICATE_REVOKED"),
            (1045, "SSLV3_ALERT_CERTIFICATE_EXPIRED"),
            (1046, "SSLV3_ALERT_CERTIFICATE_UNKNOWN"),
            (1048, "TLSV1_ALERT_UNKNOWN_CA"),
            (1113, "TLSV1_ALERT_BAD_CERTIFICATE_STATUS_RESPONSE"),
            (1041, "SSLV3_ALERT_NO_CERTIFICATE"),
        ],
    ),
    (
        ClientRefusedVersion,
        &[(1070, "TLSV1_ALERT_PROTOCOL_VERSION"), (1086, "TLSV1_ALERT_INAPPROPRIATE_FALLBACK")],
    ),
    (ClientAborted, &[(1000, "SSLV3_ALERT_CLOSE_NOTIFY"), (1090, "TLSV1_ALERT_USER_CANCELLED")]),
    (
        ClientOtherAlert,
        &[
            (1040, "SSLV3_ALERT_HANDSHAKE_FAILURE"),
            (1071, "TLSV1_ALERT_INSUFFICIENT_SECURITY"),
            (1047, "SSLV3_ALERT_ILLEGAL_PARAMETER"),
            (1050, "TLSV1_ALERT_DECODE_ERROR"),
            (1051, "TLSV1_ALERT_DECRYPT_ERROR"),
            (1080, "TLSV1_ALERT_INTERNAL_ERROR"),
            (1049, "TLSV1_ALERT_ACCESS_DENIED"),
            (1112, "TLSV1_ALERT_UNRECOGNIZED_NAME"),
            (1120, "TLSV1_ALERT_NO_APPLICATION_PROTOCOL"),
            (1110, "TLSV1_ALERT_UNSUPPORTED_EXTENSION"),
            (1116, "TLSV1_ALERT_CERTIFICATE_REQUIRED"),
            (1010, "SSLV3_ALERT_UNEXPECTED_MESSAGE"),
            (1020, "SSLV3_ALERT_BAD_RECORD_MAC"),
            (1022, "TLSV1_ALERT_RECORD_OVERFLOW"),
            (1121, "TLSV1_ALERT_ECH_REQUIRED"),
        ],
    ),
    (
        ServerMisconfigured,
        &[
            (173, "NO_CERTIFICATE_ASSIGNED"),
            (181, "NO_PRIVATE_KEY_ASSIGNED"),
            (287, "PRIVATE_KEY_OPERATION_FAILED"),
            (274, "CERTIFICATE_AND_PRIVATE_KEY_MISMATCH"),
            (276, "TICKET_ENCRYPTION_FAILED"),
            (298, "QUIC_INTERNAL_ERROR"),
        ],
    ),
    (
        ClosedMidHandshake,
        &[
            (215, "SSL_HANDSHAKE_FAILURE"),
            (284, "HANDSHAKE_NOT_COMPLETE"),
            (250, "SHUTDOWN_WHILE_IN_INIT"),
            (198, "READ_TIMEOUT_EXPIRED"),
            (194, "PROTOCOL_IS_SHUTDOWN"),
        ],
    ),
];

/// BoringSSL's `X509_V_ERR_*`: number, text, meaning.
pub const VERIFY_ERRORS: &[(u32, &str, SubReason)] = &[
    (1, "unknown certificate verification error", Internal),
    (2, "unable to get issuer certificate", UnknownIssuer),
    (3, "unable to get certificate CRL", CrlMissing),
    (4, "unable to decrypt certificate's signature", BadSignature),
    (5, "unable to decrypt CRL's signature", CrlInvalid),
    (6, "unable to decode issuer public key", BadSignature),
    (7, "certificate signature failure", BadSignature),
    (8, "CRL signature failure", CrlInvalid),
    (9, "certificate is not yet valid", NotYetValid),
    (10, "certificate has expired", Expired),
    (11, "CRL is not yet valid", CrlNotYetValid),
    (12, "CRL has expired", CrlExpired),
    (13, "format error in certificate's notBefore field", MalformedCertificate),
    (14, "format error in certificate's notAfter field", MalformedCertificate),
    (15, "format error in CRL's lastUpdate field", CrlInvalid),
    (16, "format error in CRL's nextUpdate field", CrlInvalid),
    (17, "out of memory", Internal),
    (18, "self signed certificate", SelfSigned),
    (19, "self signed certificate in certificate chain", SelfSignedInChain),
    (20, "unable to get local issuer certificate", UnknownIssuer),
    (21, "unable to verify the first certificate", UnknownIssuer),
    (22, "certificate chain too long", ChainTooLong),
    (23, "certificate revoked", Revoked),
    (24, "invalid CA certificate", InvalidCa),
    (25, "path length constraint exceeded", ChainTooLong),
    (26, "unsupported certificate purpose", WrongPurpose),
    (27, "certificate not trusted", UnknownIssuer),
    (28, "certificate rejected", PolicyRejected),
    (29, "subject issuer mismatch", UnknownIssuer),
    (30, "authority and subject key identifier mismatch", UnknownIssuer),
    (31, "authority and issuer serial number mismatch", UnknownIssuer),
    (32, "key usage does not include certificate signing", InvalidCa),
    (33, "unable to get CRL issuer certificate", CrlMissing),
    (34, "unhandled critical extension", UnhandledCriticalExtension),
    (35, "key usage does not include CRL signing", CrlInvalid),
    (36, "unhandled critical CRL extension", CrlInvalid),
    (37, "invalid non-CA certificate (has CA markings)", InvalidCa),
    (38, "proxy path length constraint exceeded", ChainTooLong),
    (39, "key usage does not include digital signature", InvalidCa),
    (40, "proxy certificates not allowed, please set the appropriate flag", InvalidCa),
    (41, "invalid or inconsistent certificate extension", MalformedCertificate),
    (42, "invalid or inconsistent certificate policy extension", MalformedCertificate),
    (43, "no explicit policy", PolicyRejected),
    (44, "Different CRL scope", CrlMissing),
    (45, "Unsupported extension feature", MalformedCertificate),
    (46, "RFC 3779 resource not subset of parent's resources", NameConstraints),
    (47, "permitted subtree violation", NameConstraints),
    (48, "excluded subtree violation", NameConstraints),
    (49, "name constraints minimum and maximum not supported", NameConstraints),
    (50, "application verification failure", PolicyRejected),
    (51, "unsupported name constraint type", NameConstraints),
    (52, "unsupported or invalid name constraint syntax", NameConstraints),
    (53, "unsupported or invalid name syntax", NameConstraints),
    (54, "CRL path validation error", CrlMissing),
    (62, "Hostname mismatch", SanMismatch),
    (63, "Email address mismatch", SanMismatch),
    (64, "IP address mismatch", SanMismatch),
    (65, "Invalid certificate verification context", Internal),
    (66, "Issuer certificate lookup error", Internal),
    (67, "Issuer has name constraints but leaf has no SANs", NameConstraints),
];

/// Texts that other libraries (Envoy on OpenSSL) use for the same.
pub const OTHER_VERIFY_ERRORS: &[(&str, SubReason)] = &[
    ("unspecified certificate verification error", Internal),
    ("self-signed certificate", SelfSigned),
    ("self-signed certificate in certificate chain", SelfSignedInChain),
    ("issuer certificate doesn't have a public key", InvalidCa),
    ("invalid CA certificate", InvalidCa),
    ("unsuitable certificate purpose", WrongPurpose),
    ("hostname mismatch", SanMismatch),
    ("email address mismatch", SanMismatch),
    ("EE certificate key too weak", WeakKeyOrSignature),
    ("CA certificate key too weak", WeakKeyOrSignature),
    ("CA signature digest algorithm too weak", WeakKeyOrSignature),
    ("OCSP verification needed", OcspFailed),
    ("OCSP verification failed", OcspFailed),
    ("OCSP unknown cert", OcspFailed),
];

/// What Envoy's own validators say, after `verify cert failed: `; each is a prefix.
pub const VALIDATORS: &[(&str, SubReason)] = &[
    ("SAN matcher", SanMismatch),
    ("verify SAN list", SanMismatch),
    ("SAN match", SanMismatch),
    ("URI SAN peer identity mismatches", SanMismatch),
    ("cert hash and spki", PinMismatch),
    ("empty cert chain", NoClientCertificate),
    ("no cert chain", NoClientCertificate),
    ("cert precheck", CaUsedAsLeaf),
    ("no trust bundle store", UnknownIssuer),
    ("init and setup X509_STORE_CTX", Internal),
    ("DER encoding error", Internal),
];
