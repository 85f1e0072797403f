//! What flowlog needs of the machine that it runs on, and what identifies it.
//!
//! | module | owns | IO |
//! |---|---|---|
//! | [`rights`] | capabilities: which, what for, given up and used for a moment | yes |
//! | [`confinement`] | what flowlog forbids itself: Landlock and seccomp | yes |
//! | [`namespace`] | network namespaces | yes |
//! | [`identity`] | what identifies this host, boot and run | yes |
//! | [`time_zone`] | the zone of local times | yes |
//! | [`needs`] | what flowlog needs of its host, and what follows where it is not there | no |
//! | [`nft_rules`] | which rules of nftables make the kernel track connections | no |
//! | [`kernel_losses`] | what the kernel counted as lost | no |
//! | [`watch`] | looks at what the host has of what flowlog needs | yes |

pub mod rights;

pub mod confinement;

pub mod namespace;

pub mod identity;

pub mod time_zone;

pub mod needs;

pub mod nft_rules;

pub mod kernel_losses;

pub mod watch;
