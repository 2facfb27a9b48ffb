//! The patterns of a policy, each of which is made once.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::regex::{Regex, RegexError};
use crate::excerpt::Excerpt;

/// Patterns, and the programs that they were compiled to: what `outgate render` writes as `patterns` and the module
/// reads.
pub type Programs = BTreeMap<String, String>;

/// Where the regular expressions of a policy come from.
#[derive(Debug)]
pub struct Patterns<'p> {
    /// Programs that came with the policy; without them patterns are compiled here.
    shipped: Option<&'p Programs>,
    made: RefCell<BTreeMap<String, Arc<Regex>>>,
    #[cfg(feature = "patterns")]
    compiled: RefCell<Programs>,
}

impl<'p> Patterns<'p> {
    /// From these programs, or without them.
    pub fn new(shipped: Option<&'p Programs>) -> Self {
        Self {
            shipped,
            made: RefCell::default(),
            #[cfg(feature = "patterns")]
            compiled: RefCell::default(),
        }
    }

    /// The regular expression of a pattern.
    pub fn regex(&self, pattern: &str) -> Result<Arc<Regex>, RegexError> {
        if let Some(regex) = self.made.borrow().get(pattern) {
            return Ok(Arc::clone(regex));
        }
        let regex = Arc::new(match self.shipped {
            Some(programs) => {
                let program = programs.get(pattern);
                Regex::new(pattern, program.ok_or_else(|| RegexError::NoProgram(Excerpt::new(pattern)))?)?
            }
            None => self.compile(pattern)?,
        });
        self.made.borrow_mut().insert(pattern.to_owned(), Arc::clone(&regex));
        Ok(regex)
    }

    #[cfg(feature = "patterns")]
    fn compile(&self, pattern: &str) -> Result<Regex, RegexError> {
        let program = super::regex::compile(pattern)?;
        let regex = Regex::new(pattern, &program)?;
        self.compiled.borrow_mut().insert(pattern.to_owned(), program);
        Ok(regex)
    }

    #[cfg(not(feature = "patterns"))]
    fn compile(&self, pattern: &str) -> Result<Regex, RegexError> {
        Err(RegexError::NoProgram(Excerpt::new(pattern)))
    }

    /// What was compiled here.
    #[cfg(feature = "patterns")]
    pub fn into_compiled(self) -> Programs {
        self.compiled.into_inner()
    }
}
