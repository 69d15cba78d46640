//! The one place where the tokenizers crate is called with what a file says. It panics on some damaged files; here that
//! becomes an error like any other.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

thread_local! {
    /// Message of the last panic on this thread, while a call is guarded.
    static SAID: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Calls `call`; an error and a panic come back as what they say. Nothing is printed.
///
/// A value that was being changed by a call that panicked must not be used again.
pub(crate) fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !listen(info) {
                usual(info);
            }
        }));
    });
    let outer = SAID.replace(Some(String::new()));
    let result = panic::catch_unwind(AssertUnwindSafe(call));
    let said = SAID.replace(outer).unwrap_or_default();
    match result {
        // The crate quotes slices of tokens that need not begin with a character.
        Ok(result) => result.map_err(|e| String::from_utf8_lossy(e.to_string().as_bytes()).into_owned()),
        Err(_) => Err(said),
    }
}

/// Keeps what a panic says, where a guarded call caused it.
fn listen(info: &PanicHookInfo<'_>) -> bool {
    let message = info.payload_as_str().unwrap_or("it failed without a reason");
    SAID.with_borrow_mut(|said| said.as_mut().map(|said| message.clone_into(said))).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_become_errors() {
        let unlucky = || -> tokenizers::Result<u32> { panic!("no {}", "luck") };
        assert_eq!(guarded(unlucky), Err("no luck".to_owned()));
        assert_eq!(guarded(|| Err::<u32, _>("no use".into())), Err("no use".to_owned()));
        assert_eq!(guarded(|| Ok(3)), Ok(3));
        // Calls in calls: the outer one still listens.
        let nested = || -> tokenizers::Result<u32> {
            assert!(guarded(unlucky).is_err());
            panic!("outer")
        };
        assert_eq!(guarded(nested), Err("outer".to_owned()));
    }
}
