//! The private key of a CA.

use std::fmt;

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _,
    RSA_PKCS1_SHA256, RsaKeyPair,
};

use pkcs8::EncryptedPrivateKeyInfo;

use super::TokenKey;
use crate::pem::{self, PemBlock, PemError};

/// The private key of a CA, wherever it is; never printed.
pub struct SigningKey {
    signer: Box<dyn Signer>,
    seed: hmac::Key,
}

/// What signs: a key in memory, or one on a token.
pub trait Signer: Send + Sync {
    /// The signature as a certificate holds it: by ECDSA with the curve's SHA-2, or RSA PKCS#1 with SHA-256.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError>;

    /// The public key as the BIT STRING of a SubjectPublicKeyInfo holds it.
    fn public_key(&self) -> &[u8];

    /// What kind of key it is.
    fn kind(&self) -> KeyKind;
}

/// A key in memory, wiped when dropped (aws-lc cleans what it frees).
enum Pair {
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

/// A key that was made just now.
pub struct GeneratedKey {
    /// The key.
    pub key: SigningKey,
    /// It as PKCS#8 PEM.
    pub pem: zeroize::Zeroizing<String>,
    /// Its SubjectPublicKeyInfo in DER.
    pub public_key_info: Vec<u8>,
}

/// What kind of key a CA has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// RSA with this many bits.
    Rsa(usize),
}

/// Why a private key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file is no PEM.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// There is no block with a private key.
    #[error("it holds no private key, only {0}")]
    NoKey(String),
    /// There are several private keys.
    #[error("it holds {0} private keys; leave only the one of the issuing certificate")]
    Several(usize),
    /// The key is encrypted, and there is no passphrase.
    #[error(
        "its key is encrypted: name the file of its passphrase (`--ca-key-passphrase FILE`, or `passphraseFile` in the configuration)"
    )]
    Encrypted,
    /// The key is encrypted in a way of old.
    #[error(
        "its key is encrypted in OpenSSL's old format: convert it with `openssl pkcs8 -topk8 -in FILE -out FILE.p8` and `chmod 600 FILE.p8`"
    )]
    EncryptedTraditionally,
    /// The passphrase, or the kind of encryption, is not right.
    #[error(
        "its key cannot be decrypted ({0}): is the first line of the passphrase file the right one? PBES2 with AES and PBKDF2-SHA256 or scrypt is understood (`openssl pkcs8 -topk8 -v2 aes256`)"
    )]
    Decryption(pkcs8::Error),
    /// The key on a token cannot be used.
    #[error(
        "the key `{}` on the token `{}` cannot be used: {detail} (the labels of token and key, and the PIN in `passphraseFile`, must be right; public and private key need the same label)", place.key, place.token
    )]
    Token {
        /// Which key.
        place: Box<TokenKey>,
        /// What is wrong.
        detail: String,
    },
    /// Built without.
    #[error("this cert-service knows no PKCS#11: build it with `--features pkcs11`")]
    NoTokens,
    /// The key is of a kind that we do not sign with.
    #[error("its key is none that can sign here (P-256, P-384 or RSA of 2048 to 8192 bits)")]
    Unsupported,
}

/// Why something could not be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The system's source of randomness failed.
    #[error("the system gives no random numbers")]
    NoRandomness,
    /// The CA is not valid now.
    #[error("the CA is not valid now: renew it")]
    CaEnded,
    /// The pool is gone.
    #[error("there is no such pool any more")]
    NoPool,
    /// The cryptographic library refused.
    #[error("the CA's key failed to sign")]
    Failed,
}

impl SigningKey {
    /// Reads the one private key among these blocks: PKCS#8, encrypted or not, SEC1 or PKCS#1.
    pub fn from_blocks(blocks: &[PemBlock], passphrase: Option<&[u8]>) -> Result<SigningKey, KeyError> {
        let keys: Vec<&PemBlock> =
            blocks.iter().filter(|block| block.label.ends_with("PRIVATE KEY")).collect();
        match keys.as_slice() {
            [] => Err(KeyError::NoKey(labels(blocks))),
            [key] if key.encrypted => Err(KeyError::EncryptedTraditionally),
            [key] if key.label == "ENCRYPTED PRIVATE KEY" => {
                let passphrase = passphrase.ok_or(KeyError::Encrypted)?;
                // The document is wiped when it is dropped.
                let clear = EncryptedPrivateKeyInfo::try_from(key.der.as_slice())
                    .and_then(|encrypted| encrypted.decrypt(passphrase))
                    .map_err(KeyError::Decryption)?;
                SigningKey::from_der(clear.as_bytes()).ok_or(KeyError::Unsupported)
            }
            [key] => SigningKey::from_der(&key.der).ok_or(KeyError::Unsupported),
            several => Err(KeyError::Several(several.len())),
        }
    }

    /// A new P-256 key.
    pub fn generate() -> Result<GeneratedKey, SignError> {
        let pair =
            EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| SignError::NoRandomness)?;
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(|_| SignError::Failed)?;
        let document = pair.to_pkcs8v1().map_err(|_| SignError::Failed)?;
        let key = SigningKey::from_der(document.as_ref()).ok_or(SignError::Failed)?;
        let pem = pem::encode("PRIVATE KEY", document.as_ref());
        Ok(GeneratedKey { key, pem, public_key_info: public.as_ref().to_vec() })
    }

    /// A key that signs, and what only its holders know, from which MAC keys are derived.
    pub(super) fn new(signer: Box<dyn Signer>, secret: &[u8]) -> SigningKey {
        let label = hmac::Key::new(hmac::HMAC_SHA256, b"outgate key derivation");
        let seed = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&label, secret).as_ref());
        SigningKey { signer, seed }
    }

    fn from_der(der: &[u8]) -> Option<SigningKey> {
        let pair = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, der)
            .map(Pair::P256)
            .or_else(|_| {
                EcdsaKeyPair::from_private_key_der(&ECDSA_P384_SHA384_ASN1_SIGNING, der).map(Pair::P384)
            })
            .or_else(|_| RsaKeyPair::from_pkcs8(der).or_else(|_| RsaKeyPair::from_der(der)).map(Pair::Rsa))
            .ok()?;
        Some(SigningKey::new(Box::new(pair), der))
    }

    /// The signature over `message`, by the algorithm that [`SigningKey::signature_algorithm`] names.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.signer.sign(message)
    }

    /// The AlgorithmIdentifier of the signatures, in DER.
    pub fn signature_algorithm(&self) -> &'static [u8] {
        match self.kind() {
            // ecdsa-with-SHA256
            KeyKind::P256 => &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2],
            // ecdsa-with-SHA384
            KeyKind::P384 => &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3],
            // sha256WithRSAEncryption, with the NULL that RFC 4055 demands
            KeyKind::Rsa(_) => &[0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 11, 5, 0],
        }
    }

    /// The public key as the BIT STRING of a SubjectPublicKeyInfo holds it.
    pub fn public_key(&self) -> &[u8] {
        self.signer.public_key()
    }

    /// What kind of key it is.
    pub fn kind(&self) -> KeyKind {
        self.signer.kind()
    }

    /// A MAC key that only holders of this private key can derive, one per purpose.
    pub fn derive(&self, purpose: &[u8]) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&self.seed, purpose).as_ref())
    }
}

impl Signer for Pair {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let random = SystemRandom::new();
        match self {
            Pair::P256(pair) | Pair::P384(pair) => pair
                .sign(&random, message)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(|_| SignError::Failed),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .map_err(|_| SignError::Failed)?;
                Ok(signature)
            }
        }
    }

    fn public_key(&self) -> &[u8] {
        match self {
            Pair::P256(pair) | Pair::P384(pair) => pair.public_key().as_ref(),
            Pair::Rsa(pair) => pair.public_key().as_ref(),
        }
    }

    fn kind(&self) -> KeyKind {
        match self {
            Pair::P256(_) => KeyKind::P256,
            Pair::P384(_) => KeyKind::P384,
            Pair::Rsa(pair) => KeyKind::Rsa(pair.public_modulus_len() * 8),
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SigningKey({}, …)", self.kind())
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyKind::P256 => formatter.write_str("P-256"),
            KeyKind::P384 => formatter.write_str("P-384"),
            KeyKind::Rsa(bits) => write!(formatter, "RSA-{bits}"),
        }
    }
}

fn labels(blocks: &[PemBlock]) -> String {
    let labels: Vec<String> = blocks.iter().map(|block| format!("`{}`", block.label)).collect();
    labels.join(", ")
}
