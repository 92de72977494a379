//! One test suite per port, which every adapter of it passes.
//!
//! A case is an `async fn` over a factory; its name is the sentence that an adapter's test fails
//! with. The macros expand into one `#[tokio::test]` per case, in the crate that calls them.
#![expect(missing_docs, reason = "the name of a case is its sentence")]
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a case fails by panicking"
)]

pub mod bus;
pub mod live;
pub mod memory;
pub mod policy;
pub mod store;

/// Expands into one test per case: `suite_cases! { factory; port { case case } }`, or with the cases
/// in groups: `suite_cases! { factory; group of port { case case } … }`.
#[doc(hidden)]
#[macro_export]
macro_rules! suite_cases {
    ($factory:expr; $($group:ident of $port:ident { $($case:ident)* })*) => {
        $($(
            #[tokio::test]
            async fn $case() {
                let factory = $factory;
                $crate::testing::suite::$port::$group::$case(&factory).await;
            }
        )*)*
    };
    ($factory:expr; $port:ident { $($case:ident)* }) => {
        $(
            #[tokio::test]
            async fn $case() {
                let factory = $factory;
                $crate::testing::suite::$port::$case(&factory).await;
            }
        )*
    };
}
