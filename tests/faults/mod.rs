//! Kills, faults and hostile input, and that no secret leaks.

mod canary;
mod damage;
mod hostile;
mod hostile_dumps;
mod kills;
mod kills_of_restore;
mod logins;
mod odd_files;
mod soak;
