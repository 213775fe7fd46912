//! What the slots hold and what happened, for programs: `runtime/JSON.md`.

use serde_json::{Value, json};

use super::SlotError;
use super::store::{Files, Store};
use crate::bundle::Roots;

impl<F: Files> Store<F> {
    /// The object of `candor slot status --json`.
    ///
    /// # Errors
    /// As [`Store::key_list`].
    pub fn status(&self, roots: &Roots) -> Result<Value, SlotError> {
        let serial = self.key_list(roots)?.map(|list| list.serial);
        let (record, next) = (self.record(), self.record().slots.next_boot());
        let digest = next.held().map(|held| held.digest);
        Ok(json!({ "schema": 1, "next": digest, "record": record, "key_list_serial": serial }))
    }
}
