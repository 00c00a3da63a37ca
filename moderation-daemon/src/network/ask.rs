//! One question to the kernel over rtnetlink, from code that is async or not.
//! It knows no question itself and needs no privilege.

use std::thread;

use rtnetlink::Handle;

use super::NetworkError;

/// Asks on a thread of its own with a runtime of its own, so that callers may
/// be async or not. The thread is in the caller's network namespace.
///
/// # Errors
///
/// If the kernel cannot be asked, or does not answer `question`.
pub(super) fn ask<T, F>(question: impl FnOnce(Handle) -> F + Send) -> Result<T, NetworkError>
where
    T: Send,
    F: Future<Output = Result<T, rtnetlink::Error>>,
{
    thread::scope(|scope| {
        let asking = thread::Builder::new().spawn_scoped(scope, || put(question))?;
        asking.join().unwrap_or_else(|_| Err("the thread that asks panicked".into()))
    })
    .map_err(NetworkError::Interfaces)
}

fn put<T, F>(
    question: impl FnOnce(Handle) -> F,
) -> Result<T, Box<dyn std::error::Error + Send + Sync>>
where
    F: Future<Output = Result<T, rtnetlink::Error>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(question(handle).await?)
    })
}
