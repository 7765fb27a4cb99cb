-- The keys of server $1 that Synapse received from that server itself or from a notary.
SELECT key_id, verify_key FROM public.server_signature_keys WHERE server_name = $1 ORDER BY key_id
