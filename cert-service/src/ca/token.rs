//! Keys that never leave a PKCS#11 token.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::{digest, rand};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;

use super::key::{KeyError, KeyKind, SignError, Signer, SigningKey};
use super::{CaError, TokenKey, store};
use crate::certificate::der::{Writer, tag};

/// A module may be initialised once in a process, and stays so.
static MODULES: Mutex<Option<HashMap<PathBuf, Pkcs11>>> = Mutex::new(None);

/// The parameters of the curves that we sign with: their object identifiers in DER.
const P256: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const P384: &[u8] = &[6, 5, 0x2b, 0x81, 4, 0, 0x22];

struct TokenSigner {
    session: Mutex<Session>,
    private: ObjectHandle,
    public: Vec<u8>,
    kind: KeyKind,
}

/// Logs in and finds the key.
pub(super) fn open(key: &TokenKey, pin: Option<&Path>) -> Result<SigningKey, CaError> {
    let pin = pin.map(store::read_passphrase).transpose()?;
    let wrong = |detail: String| CaError::Key {
        path: key.module.clone(),
        source: KeyError::Token { place: Box::new(key.clone()), detail },
    };
    let pin = pin
        .map(|pin| std::str::from_utf8(&pin).map(|pin| AuthPin::new(pin.to_owned().into())))
        .transpose()
        .map_err(|_| wrong("its PIN is not UTF-8".to_owned()))?;
    find(key, pin.as_ref()).map_err(wrong)
}

fn find(key: &TokenKey, pin: Option<&AuthPin>) -> Result<SigningKey, String> {
    let said = |error: Error| error.to_string();
    let module = module(&key.module).map_err(said)?;
    let slots = module.get_slots_with_token().map_err(said)?;
    let slot = slots
        .into_iter()
        .find(|slot| module.get_token_info(*slot).is_ok_and(|info| info.label() == key.token))
        .ok_or("no token has this label")?;
    let session = module.open_ro_session(slot).map_err(said)?;
    match session.login(UserType::User, pin) {
        // By another session of ours.
        Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
        Err(error) => return Err(said(error)),
    }
    let object = |class| {
        let label = Attribute::Label(key.key.as_bytes().to_vec());
        match session.find_objects(&[Attribute::Class(class), label]).map_err(said)?.as_slice() {
            [one] => Ok(*one),
            found => Err(format!("{} objects of class {class} have this label, not 1", found.len())),
        }
    };
    let (private, public) = (object(ObjectClass::PRIVATE_KEY)?, object(ObjectClass::PUBLIC_KEY)?);
    let (public, kind) = public_key(&session, public)?;
    let mut seed = [0; 32];
    rand::fill(&mut seed).map_err(|_| "the system gives no random numbers".to_owned())?;
    let signer = TokenSigner { session: Mutex::new(session), private, public, kind };
    Ok(SigningKey::new(Box::new(signer), &seed))
}

fn module(path: &Path) -> Result<Pkcs11, Error> {
    let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
    let modules = modules.get_or_insert_default();
    if let Some(known) = modules.get(path) {
        return Ok(known.clone());
    }
    let module = Pkcs11::new(path)?;
    module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
    modules.insert(path.to_owned(), module.clone());
    Ok(module)
}

/// The public key as a certificate holds it.
fn public_key(session: &Session, public: ObjectHandle) -> Result<(Vec<u8>, KeyKind), String> {
    let wanted = [
        AttributeType::KeyType,
        AttributeType::EcParams,
        AttributeType::EcPoint,
        AttributeType::Modulus,
        AttributeType::PublicExponent,
    ];
    let (mut kind, mut curve, mut point, mut modulus, mut exponent) = (None, None, None, None, None);
    for attribute in session.get_attributes(public, &wanted).map_err(|error| error.to_string())? {
        match attribute {
            Attribute::KeyType(found) => kind = Some(found),
            Attribute::EcParams(found) => curve = Some(found),
            Attribute::EcPoint(found) => point = Some(found),
            Attribute::Modulus(found) => modulus = Some(found),
            Attribute::PublicExponent(found) => exponent = Some(found),
            _ => {}
        }
    }
    let unsupported = || "it is none that can sign here (P-256, P-384 or RSA)".to_owned();
    if kind == Some(KeyType::RSA)
        && let (Some(modulus), Some(exponent)) = (modulus, exponent)
    {
        let mut writer = Writer::with_capacity(modulus.len() + 32);
        writer.nested(tag::SEQUENCE, |key| {
            for number in [&modulus, &exponent] {
                key.primitive(tag::INTEGER, &unsigned(number));
            }
        });
        return Ok((writer.into_bytes(), KeyKind::Rsa(modulus.len() * 8)));
    }
    let kind = match curve.as_deref() {
        Some(P256) => KeyKind::P256,
        Some(P384) => KeyKind::P384,
        _ => return Err(unsupported()),
    };
    // An OCTET STRING around the point (PKCS#11 2.40, 2.3.3): shorter than 128 bytes, so of two bytes' header.
    let point =
        point.and_then(|point| point.strip_prefix(&[4]).and_then(|rest| Some(rest.get(1..)?.to_vec())));
    Ok((point.ok_or_else(unsupported)?, kind))
}

impl Signer for TokenSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let sign = |mechanism: &Mechanism<'_>, data: &[u8]| {
            session.sign(mechanism, self.private, data).map_err(|_| SignError::Failed)
        };
        let algorithm = match self.kind {
            KeyKind::Rsa(_) => return sign(&Mechanism::Sha256RsaPkcs, message),
            KeyKind::P256 => &digest::SHA256,
            KeyKind::P384 => &digest::SHA384,
        };
        // Tokens give r and s side by side, certificates want them in a SEQUENCE (RFC 3279, 2.2.3).
        let raw = sign(&Mechanism::Ecdsa, digest::digest(algorithm, message).as_ref())?;
        let (r, s) = raw.split_at_checked(raw.len() / 2).ok_or(SignError::Failed)?;
        let mut writer = Writer::with_capacity(raw.len() + 16);
        writer.nested(tag::SEQUENCE, |signature| {
            for number in [r, s] {
                signature.primitive(tag::INTEGER, &unsigned(number));
            }
        });
        Ok(writer.into_bytes())
    }

    fn public_key(&self) -> &[u8] {
        &self.public
    }

    fn kind(&self) -> KeyKind {
        self.kind
    }
}

/// What an INTEGER holds for these big-endian bytes: as short as can be, and positive.
fn unsigned(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let digits = bytes.get(zeros..).unwrap_or_default();
    let sign = if digits.first().is_none_or(|first| first & 0x80 != 0) { &[0][..] } else { &[] };
    [sign, digits].concat()
}
