use super::source::Source;
use super::weights::Stored;
use crate::Result;
use std::collections::BTreeMap;
pub(super) fn recognises(_s: &[u8]) -> bool {
    false
}
pub(super) fn read(_s: &Source) -> Result<BTreeMap<String, Stored>> {
    Ok(BTreeMap::new())
}
