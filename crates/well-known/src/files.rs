//! The files that well-known writes: documents, Helm values, snippets, and the list of DNS records.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ess_document::RecordChange;
use ess_files::{make_directory, write_file};

use crate::documents::{Documents, additional};
use crate::records::shown;

/// The content of the files.
pub(crate) struct Files<'a> {
    pub(crate) directory: &'a Path,
    pub(crate) server_name: &'a str,
    pub(crate) host: &'a str,
    pub(crate) rtc_host: Option<&'a str>,
    pub(crate) documents: &'a Documents,
    pub(crate) records: &'a [RecordChange],
}

impl Files<'_> {
    /// Writes all files, and returns their paths.
    pub(crate) fn write(&self) -> anyhow::Result<Vec<PathBuf>> {
        make_directory(self.directory)?;
        let mut written = Vec::new();
        let mut write = |name: &str, text: String| {
            let path = self.directory.join(name);
            write_file(&path, text.as_bytes())?;
            written.push(path);
            anyhow::Ok(())
        };
        for (name, document) in self.documents {
            let text = serde_json::to_string_pretty(document).context("cannot write a document")?;
            write(name, text + "\n")?;
        }
        write("values.yaml", self.values())?;
        write("nginx.conf", self.nginx())?;
        write("Caddyfile", self.caddy())?;
        let lines: Vec<String> = self.records.iter().map(|change| shown(change) + "\n").collect();
        write("dns.txt", lines.concat())?;
        Ok(written)
    }

    fn values(&self) -> String {
        let additional = additional(self.documents, self.rtc_host);
        let rtc = self.rtc_host.map_or_else(String::new, |host| {
            format!("matrixRTC:\n  ingress:\n    host: {}\n", quoted(host))
        });
        let texts: Vec<String> = additional
            .iter()
            .map(|(name, text)| format!("    {name}: {}\n", quoted(text)))
            .collect();
        format!(
            "# For the case that ESS serves the documents itself (wellKnownDelegation). The chart sets m.homeserver\n\
             # and m.server from synapse.ingress.host.\n\
             serverName: {}\n\
             synapse:\n  ingress:\n    host: {}\n\
             {rtc}\
             wellKnownDelegation:\n  enabled: true\n  additional:\n{}",
            quoted(self.server_name),
            quoted(self.host),
            texts.concat(),
        )
    }

    fn nginx(&self) -> String {
        let locations: Vec<String> = self
            .documents
            .keys()
            .map(|name| {
                format!(
                    "location = /.well-known/matrix/{name} {{\n    \
                     alias /var/www/matrix-well-known/{name};\n    \
                     default_type application/json;\n    \
                     add_header Access-Control-Allow-Origin * always;\n\
                     }}\n"
                )
            })
            .collect();
        format!(
            "# For the server block of {}, if nginx continues to serve it. Copy the documents next to this file to\n\
             # /var/www/matrix-well-known, where nginx can read them.\n{}",
            self.server_name,
            locations.concat()
        )
    }

    fn caddy(&self) -> String {
        let handles: Vec<String> = self
            .documents
            .keys()
            .map(|name| {
                format!(
                    "handle /.well-known/matrix/{name} {{\n\
                     \theader Content-Type application/json\n\
                     \theader Access-Control-Allow-Origin *\n\
                     \troot * /var/www/matrix-well-known\n\
                     \trewrite * /{name}\n\
                     \tfile_server\n\
                     }}\n"
                )
            })
            .collect();
        format!(
            "# For the site block of {}, if Caddy continues to serve it. Copy the documents next to this file to\n\
             # /var/www/matrix-well-known, where Caddy can read them.\n{}",
            self.server_name,
            handles.concat()
        )
    }
}

/// A single-quoted YAML string, which every YAML reader takes literally.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
