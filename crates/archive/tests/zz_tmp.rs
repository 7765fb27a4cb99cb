#[test] fn zz() { for f in ["d","i","big"] { let p = format!("/tmp/syncon/{f}.sql"); if !std::path::Path::new(&p).exists() {continue}
 let t = std::time::Instant::now(); let mut out = std::io::BufWriter::new(std::fs::File::create(format!("/tmp/syncon/{f}.out")).unwrap());
 let o = ess_archive::scan(&mut ess_archive::open_plain(std::path::Path::new(&p)).unwrap(), &mut out);
 match o { Ok(o) => println!("{f} ok {:?} dropped {} tables {} db {:?} {:?} rss {}", o.schema, o.dropped.len(), o.copied.len(), o.database, t.elapsed(), std::fs::read_to_string("/proc/self/status").unwrap().lines().find(|l| l.starts_with("VmHWM")).unwrap()), Err(e) => println!("{f} ERR {e}") } } }
