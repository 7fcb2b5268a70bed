-- Rows of a run of this release; its schema is that of its migrations. By make release-fixture
-- taken at 2026-11-28 12:31:18.413637+00
ALTER TABLE public.accounts DISABLE TRIGGER ALL;
INSERT INTO public.accounts (id, name, email, presenter, created_at, updated_at) VALUES (1, 'default', '', 'manual', '2026-11-28 12:31:14.762025+00', '2026-11-28 12:31:14.762025+00');
INSERT INTO public.accounts (id, name, email, presenter, created_at, updated_at) VALUES (2, 'Shop Inc', '', 'test-dns', '2026-11-28 12:31:15.253463+00', '2026-11-28 12:31:15.253463+00');
ALTER TABLE public.accounts ENABLE TRIGGER ALL;
ALTER TABLE public.acme_accounts DISABLE TRIGGER ALL;
INSERT INTO public.acme_accounts (directory, private_key_pem, kid, held_until, held_because, created_at, registered_at, windows_held_until) VALUES ('https://ca.example:14000/dir', '-----BEGIN PRIVATE KEY-----
MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQCPJsJuSL/kw0zR
5XJ1JxJBTuIJxH0dCP4aa4Ic1ZUK0iopLJ9OOaqWP49EqBfcvUpxOei19ZcYFCDd
FLULP5mjJxsaYs6rq1MiMulYhKWukqPUkhMYfj9+DwinPbxNGmVypOQPTDPprJgi
cShzwDhVdqrChb7y4xJMagmtsVlOoUYcrzEOl5TvFMZQHOKRJSqcnY6c50S4nJ6+
nnYgrA8sc/PVzNlQgcnP+lrF9i70vb9+f7+EpOG5c7Aq2xXiRd4K8qFnmsnudItu
96Ou8NqzWtBxhnFuFCvh0PiMekUfmU05K0W8AaIOCkcp+qtyGU4uLp3lyawmEm0n
XTv6Bl2/AgMBAAECggEARTK3ShhgqnS97bi8W2VHrcoz+gTBdgeizaKqgsW8Bj8R
olWvrGCz1W1kFAwtfMcD9TfJBixxnXIdcMFRwt47pmKA94BL5zAqP53crq1wabL4
/widsnlUt9sMk8uD+sGHyKNsmvh7H7oO0JditpF0qdtzMBT2+PJLJiUcCJpyUU9r
OtwzC3TzvJJ9P6wjmNdctJwVXYUzsTt2y7lg5RR8TgWZyKlkGaQR80sIddF0QDiJ
yB1mH05b7LtjW4VmvtmDIOEwW/aBJ0ExAOTZlfRMjjlumLwZmeMV2Ep9nkZ5OZ71
SngtM0xwVHf01vDR8LZWJaU0RBx20PVgjZPZpAwqAQKBgQDClXed1YhslWeCKNRC
QjibMjhi04repThnJyS44CvXhhnvDocNY/ks/9onJeNaxlY8vuen9l58NlpnbOcl
s0RC2GSG3HBOmQliTSwi4PWBanDC913TgVXB+7h65oo6iS1AKoih21Bbws1knkC5
mlEiGL4sC9qq0QalqMhVTc7QqwKBgQC8VYIxrJUckoPxQlv+ZK+eURyvt4/6EGyv
hHfTwun3wkN1aBZfSxwr4Xm06U1ySwEHqAE4rm7GQ0xaqGti9h2EfLv+H0e5q8Rv
c1TbWgXuNbsEBXMzNbEZQeQUVTnOmEubdjgriuS0L4CPKSjOZ30getercNAEEXTh
2KnJxs3vPQKBgFIXfvSOvtSYn6exFAO0Lm+DW3iOKNtPtyEFyZ9ZrAVsZQqPBXkn
wVszwdScTnPgk0djfxZEgY5D3BYgQtCL9fOBmb+vxo3SULwxNLquT8U+o74NYH83
5HdHfIgVNSIG95lHmIc4oIlmAQM/JK1pJmuNJsYsZh+Euhovv/0FK4irAoGBALJ5
bgnY/O24wySsuDUaAXtMbpzunZhiXDzwkgWxnrtV80uduiXQLgA/inCw7t2yymUR
BydJ1lw4hnEbTbjYdxyIgDbQOc5wQpVDfFTquNgHPxUOfR84cH34/UVvhnqLxIqs
u4o384f1xCTm4m7Hj8Jp51vmapqQWG12P2Ch76IZAoGAaPNTs39Aqa88kn6w5IFs
EF5VBaXSE7ni13XChEu3eokatlCKS6xAoRIBA9RQ7VbiHkJ+HQLyzMSJC0lbOTAw
MuzjI1OC+Hj2yr/BCNZY4gNu5FkMV/vS9elckugBsZbaAhXdZ9U1n5bb8G4OYXbc
rhqYNoMfK84BCrbYgzKdv/Y=
-----END PRIVATE KEY-----
', 'https://ca.example:14000/my-account/261bdd678492e1f2', NULL, NULL, '2026-11-28 12:31:15.510264+00', '2026-11-28 12:31:15.518868+00', NULL);
ALTER TABLE public.acme_accounts ENABLE TRIGGER ALL;
ALTER TABLE public.api_tokens DISABLE TRIGGER ALL;
INSERT INTO public.api_tokens (id, account_id, sha256, name, scopes, created_at, expires_at, revoked_at, last_used_at) OVERRIDING SYSTEM VALUE VALUES (1, 2, '\x54ce701282d7d291c7f71e57a3a287392950bc0c72035533364e380f6e34efeb', 'token', '{certificates:read,certificates:write,certificates:key,domains:*,webhooks:*}', '2026-11-28 12:31:15.293552+00', NULL, NULL, '2026-11-28 12:31:16.021957+00');
ALTER TABLE public.api_tokens ENABLE TRIGGER ALL;
ALTER TABLE public.audit_entries DISABLE TRIGGER ALL;
INSERT INTO public.audit_entries (id, at, account_id, token_id, action, subject, request_id) OVERRIDING SYSTEM VALUE VALUES (1, '2026-11-28 12:31:16.022652+00', 2, 1, 'webhook.create', 'webhook 1', '292caf681c18d4d30d52477809e0c829');
INSERT INTO public.audit_entries (id, at, account_id, token_id, action, subject, request_id) OVERRIDING SYSTEM VALUE VALUES (2, '2026-11-28 12:31:16.032002+00', 2, 1, 'domain.create', 'domain 4 renewed.example.com', 'ffa57c6e60c703195a943e7e2a8ecb61');
INSERT INTO public.audit_entries (id, at, account_id, token_id, action, subject, request_id) OVERRIDING SYSTEM VALUE VALUES (3, '2026-11-28 12:31:16.043168+00', 2, 1, 'certificate.order', 'certificate 4 renewed.example.com', 'e9217712b9ba1b11672f68ee9e1da66e');
INSERT INTO public.audit_entries (id, at, account_id, token_id, action, subject, request_id) OVERRIDING SYSTEM VALUE VALUES (4, '2026-11-28 12:31:16.048968+00', 2, 1, 'certificate.issue', 'certificate 4 renewed.example.com', '9e353d647f77c3339e210d226a1ae582');
INSERT INTO public.audit_entries (id, at, account_id, token_id, action, subject, request_id) OVERRIDING SYSTEM VALUE VALUES (5, '2026-11-28 12:31:16.594861+00', 2, 1, 'domain.create', 'domain 5 renewing.example.com', 'a41279eaab1f50317fd75e7daa349caa');
INSERT INTO public.audit_entries (id, at, account_id, token_id, action, subject, request_id) OVERRIDING SYSTEM VALUE VALUES (6, '2026-11-28 12:31:16.603263+00', 2, 1, 'certificate.order', 'certificate 5 renewing.example.com', '3d099bb29d281c9441d92ae396773f28');
INSERT INTO public.audit_entries (id, at, account_id, token_id, action, subject, request_id) OVERRIDING SYSTEM VALUE VALUES (7, '2026-11-28 12:31:16.613884+00', 2, 1, 'certificate.issue', 'certificate 5 renewing.example.com', '02b6208162822803309077df6d40ab0b');
INSERT INTO public.audit_entries (id, at, account_id, token_id, action, subject, request_id) OVERRIDING SYSTEM VALUE VALUES (8, '2026-11-28 12:31:17.204161+00', 2, 1, 'renewal.order', 'renewal 1 of certificate 4 renewed.example.com', 'c49a62fe0d4d896529e636adb90407f9');
INSERT INTO public.audit_entries (id, at, account_id, token_id, action, subject, request_id) OVERRIDING SYSTEM VALUE VALUES (9, '2026-11-28 12:31:17.209967+00', 2, 1, 'renewal.issue', 'renewal 1 by certificate 6 renewed.example.com', 'ba069e02558151492182b502e38ed62d');
INSERT INTO public.audit_entries (id, at, account_id, token_id, action, subject, request_id) OVERRIDING SYSTEM VALUE VALUES (10, '2026-11-28 12:31:17.8449+00', 2, 1, 'domain.create', 'domain 9 placed.example.com', '8f9dfea6673e1865a719fd21ce631529');
INSERT INTO public.audit_entries (id, at, account_id, token_id, action, subject, request_id) OVERRIDING SYSTEM VALUE VALUES (11, '2026-11-28 12:31:17.849429+00', 2, 1, 'certificate.order', 'certificate 10 *.placed.example.com', '9996beb39c94929f961157faabd318f3');
INSERT INTO public.audit_entries (id, at, account_id, token_id, action, subject, request_id) OVERRIDING SYSTEM VALUE VALUES (12, '2026-11-28 12:31:17.852409+00', 2, 1, 'certificate.issue', 'certificate 10 *.placed.example.com', 'd36fc5ad00bc31da678d1da05640017a');
INSERT INTO public.audit_entries (id, at, account_id, token_id, action, subject, request_id) OVERRIDING SYSTEM VALUE VALUES (13, '2026-11-28 12:31:17.957804+00', 2, 1, 'domain.create', 'domain 12 authorized.example.com', '8b9def69be632cb8b7bef755233cb0f8');
INSERT INTO public.audit_entries (id, at, account_id, token_id, action, subject, request_id) OVERRIDING SYSTEM VALUE VALUES (14, '2026-11-28 12:31:17.965801+00', 2, 1, 'certificate.order', 'certificate 13 authorized.example.com', '1412f6f85b0ee6c9795501d619b2e2e7');
INSERT INTO public.audit_entries (id, at, account_id, token_id, action, subject, request_id) OVERRIDING SYSTEM VALUE VALUES (15, '2026-11-28 12:31:17.97243+00', 2, 1, 'certificate.issue', 'certificate 13 authorized.example.com', '5d8766e128756a6711b4bd6d487a060b');
INSERT INTO public.audit_entries (id, at, account_id, token_id, action, subject, request_id) OVERRIDING SYSTEM VALUE VALUES (16, '2026-11-28 12:31:18.301965+00', 2, 1, 'domain.create', 'domain 16 accepted.example.com', 'd043e7958df684e2d8a3a5ca8ec1769b');
INSERT INTO public.audit_entries (id, at, account_id, token_id, action, subject, request_id) OVERRIDING SYSTEM VALUE VALUES (17, '2026-11-28 12:31:18.305926+00', 2, 1, 'certificate.order', 'certificate 17 accepted.example.com', 'be81a65c513fc29af9d74d5cb50e479a');
INSERT INTO public.audit_entries (id, at, account_id, token_id, action, subject, request_id) OVERRIDING SYSTEM VALUE VALUES (18, '2026-11-28 12:31:18.308563+00', 2, 1, 'certificate.issue', 'certificate 17 accepted.example.com', '49462a66a23dea8bdba308ecb58045ae');
INSERT INTO public.audit_entries (id, at, account_id, token_id, action, subject, request_id) OVERRIDING SYSTEM VALUE VALUES (19, '2026-11-28 12:31:18.313017+00', 2, 1, 'renewal.order', 'renewal 2 of certificate 5 renewing.example.com', 'a3835383082a40000382c71791bac5c6');
INSERT INTO public.audit_entries (id, at, account_id, token_id, action, subject, request_id) OVERRIDING SYSTEM VALUE VALUES (20, '2026-11-28 12:31:18.3173+00', 2, 1, 'renewal.issue', 'renewal 2 by certificate 18 renewing.example.com', '92b00d4d7fdade3ca3987b2306e7d8e8');
INSERT INTO public.audit_entries (id, at, account_id, token_id, action, subject, request_id) OVERRIDING SYSTEM VALUE VALUES (21, '2026-11-28 12:31:18.323424+00', 2, 1, 'presenter.propose', 'domain 4 webhook', 'b252c91cb196c153d2c90c72c27f979d');
ALTER TABLE public.audit_entries ENABLE TRIGGER ALL;
ALTER TABLE public.domains DISABLE TRIGGER ALL;
INSERT INTO public.domains (id, public_id, account_id, name, supplied_name, status, verification_token, verified_at, created_at, updated_at, deleted_at, delegation_label, delegated_at) OVERRIDING SYSTEM VALUE VALUES (1, '8e63fb52c0669d82e601ee6b3a76ca93', 1, 'active.example.com', 'active.example.com', 'active', '485bfec16b1b5475f7975cae31c36f8f71b39d3b8cc53d395df94602f33d94d4', '2026-11-28 12:31:15.315565+00', '2026-11-28 12:31:15.300308+00', '2026-11-28 12:31:15.643229+00', NULL, 'c67892ba12254adea64f798379124a48', NULL);
INSERT INTO public.domains (id, public_id, account_id, name, supplied_name, status, verification_token, verified_at, created_at, updated_at, deleted_at, delegation_label, delegated_at) OVERRIDING SYSTEM VALUE VALUES (2, 'b6b89cc2384eeac6ab269d3c753de1b6', 1, 'failed.example.com', 'failed.example.com', 'failed', '58f304ca6449f7e2d57f0ebea0f83a4365f6fb039dd0ee5b5f696c449894f437', '2026-11-28 12:31:15.671655+00', '2026-11-28 12:31:15.665638+00', '2026-11-28 12:31:15.945633+00', NULL, '201b9911b8664ba1bdc9b11c3dc64132', NULL);
INSERT INTO public.domains (id, public_id, account_id, name, supplied_name, status, verification_token, verified_at, created_at, updated_at, deleted_at, delegation_label, delegated_at) OVERRIDING SYSTEM VALUE VALUES (3, 'da41699f0e5d6b4760065a4cb9d96100', 1, 'blocked.example.com', 'blocked.example.com', 'verified', 'a5d041cef93dd0fad8d3d82e98078c87c30457034d0e5355be98f70ec53d2aa3', '2026-11-28 12:31:15.98336+00', '2026-11-28 12:31:15.976265+00', '2026-11-28 12:31:15.98336+00', NULL, '85ff75b792a1453f9b5ffe497707aa06', NULL);
INSERT INTO public.domains (id, public_id, account_id, name, supplied_name, status, verification_token, verified_at, created_at, updated_at, deleted_at, delegation_label, delegated_at) OVERRIDING SYSTEM VALUE VALUES (4, 'f159019653dfae38c422578be578efe7', 2, 'renewed.example.com', 'renewed.example.com', 'pending', 'e1f51f4165eddfa7fe01815a76935d3ce18a9961539777800c148b0e3e80910b', NULL, '2026-11-28 12:31:16.032002+00', '2026-11-28 12:31:16.032002+00', NULL, 'e60e574df1924395b95d1395d00af587', NULL);
INSERT INTO public.domains (id, public_id, account_id, name, supplied_name, status, verification_token, verified_at, created_at, updated_at, deleted_at, delegation_label, delegated_at) OVERRIDING SYSTEM VALUE VALUES (5, '98c2fde12cd29cdc90dcc62a2735450d', 2, 'renewing.example.com', 'renewing.example.com', 'pending', '86b6a015cc9034bc6f602780e4cd880f2d36d229ac3cd077f34d6a5e410e6c29', NULL, '2026-11-28 12:31:16.594861+00', '2026-11-28 12:31:16.594861+00', NULL, '2b7257d511a64262b57b1f6761367303', NULL);
INSERT INTO public.domains (id, public_id, account_id, name, supplied_name, status, verification_token, verified_at, created_at, updated_at, deleted_at, delegation_label, delegated_at) OVERRIDING SYSTEM VALUE VALUES (6, '11fef5330fb367a496cdd951d409aed7', 1, 'presented.example.com', 'presented.example.com', 'certificate_pending', 'ca2d3536ac8c50e6c5de2a37956823410531e5cbbd2afa52358e30a68fc43ae3', '2026-11-28 12:31:17.757915+00', '2026-11-28 12:31:17.752567+00', '2026-11-28 12:31:17.77642+00', NULL, 'bf5483d25c274b63ac7114429804426a', NULL);
INSERT INTO public.domains (id, public_id, account_id, name, supplied_name, status, verification_token, verified_at, created_at, updated_at, deleted_at, delegation_label, delegated_at) OVERRIDING SYSTEM VALUE VALUES (7, '36d1fb0d092ff4f9683300ac00bf0732', 1, 'parked.example.com', 'parked.example.com', 'certificate_pending', 'e20b614163b217186b4c8fb8fd4fa8112d7618c97a096d02c41074e417ff1683', '2026-11-28 12:31:17.792041+00', '2026-11-28 12:31:17.784457+00', '2026-11-28 12:31:17.809102+00', NULL, '7605890d5696403cbd0eedf60c1ecc6f', NULL);
INSERT INTO public.domains (id, public_id, account_id, name, supplied_name, status, verification_token, verified_at, created_at, updated_at, deleted_at, delegation_label, delegated_at) OVERRIDING SYSTEM VALUE VALUES (9, 'c8fa6dd78f6d479de22287359473b493', 2, 'placed.example.com', 'placed.example.com', 'pending', '6b3fc1f314bf8902ee8c51124fa8377ff5520392b847672ede9a61ed6d8d9f6b', NULL, '2026-11-28 12:31:17.8449+00', '2026-11-28 12:31:17.8449+00', NULL, '8e6c6f5ce9a8490bae9d8acc087169ef', NULL);
INSERT INTO public.domains (id, public_id, account_id, name, supplied_name, status, verification_token, verified_at, created_at, updated_at, deleted_at, delegation_label, delegated_at) OVERRIDING SYSTEM VALUE VALUES (10, '96805d48d00a2541d201de93d884a6e9', 1, 'confirmed.example.com', 'confirmed.example.com', 'certificate_pending', '42bbf3aca5d30d5514283820c8ce6dba8a75a6a3d0ef25ac445a7c9aff4a6357', '2026-11-28 12:31:17.86078+00', '2026-11-28 12:31:17.856399+00', '2026-11-28 12:31:17.918509+00', NULL, '9ac8f180e02741dbb262b80fae14304e', NULL);
INSERT INTO public.domains (id, public_id, account_id, name, supplied_name, status, verification_token, verified_at, created_at, updated_at, deleted_at, delegation_label, delegated_at) OVERRIDING SYSTEM VALUE VALUES (11, '9589f9e3898107f116d7e3125f9dc6f1', 1, 'responded.example.com', 'responded.example.com', 'certificate_pending', '1df00faae7117731fd77d1e08ed2a0297f1860138129c5c42450bcd0e031801c', '2026-11-28 12:31:17.933642+00', '2026-11-28 12:31:17.925168+00', '2026-11-28 12:31:17.950794+00', NULL, 'c37dd6f125af466baa31ffd757935ea4', '2026-11-28 12:31:17.933642+00');
INSERT INTO public.domains (id, public_id, account_id, name, supplied_name, status, verification_token, verified_at, created_at, updated_at, deleted_at, delegation_label, delegated_at) OVERRIDING SYSTEM VALUE VALUES (12, '7525e329806d67c064ecd418c7fe349c', 2, 'authorized.example.com', 'authorized.example.com', 'pending', '7ff52b320c65943c5d8e0d1a7aa62894dfcfa2a116d4067a03163fbd10cddf04', NULL, '2026-11-28 12:31:17.957804+00', '2026-11-28 12:31:17.957804+00', NULL, 'bb7182d9e6ae4d7a879d4f93ea762d5f', NULL);
INSERT INTO public.domains (id, public_id, account_id, name, supplied_name, status, verification_token, verified_at, created_at, updated_at, deleted_at, delegation_label, delegated_at) OVERRIDING SYSTEM VALUE VALUES (13, 'a870ea6472094f87ce7be097a56ec987', 1, 'prepared.example.com', 'prepared.example.com', 'certificate_pending', 'c7ceadd6ae1c0952aa35dda8a2fd364ef31825e9e869ba8bf330f2776c2a8c37', '2026-11-28 12:31:17.989987+00', '2026-11-28 12:31:17.980869+00', '2026-11-28 12:31:18.017214+00', NULL, '4402a6338b96403b87818f99478b3145', NULL);
INSERT INTO public.domains (id, public_id, account_id, name, supplied_name, status, verification_token, verified_at, created_at, updated_at, deleted_at, delegation_label, delegated_at) OVERRIDING SYSTEM VALUE VALUES (14, 'a04c6089067d12bcfb12e7236db87248', 1, 'finalizing.example.com', 'finalizing.example.com', 'certificate_pending', 'c029d5cfcba3159dd62f53e6e90f582f36a808f55bfc8e7ec65276cbe4dfaa89', '2026-11-28 12:31:18.040318+00', '2026-11-28 12:31:18.031307+00', '2026-11-28 12:31:18.073426+00', NULL, '1bf982cfdf3b423da8328ddac75c95b2', NULL);
INSERT INTO public.domains (id, public_id, account_id, name, supplied_name, status, verification_token, verified_at, created_at, updated_at, deleted_at, delegation_label, delegated_at) OVERRIDING SYSTEM VALUE VALUES (15, '3b559135b17d462dff3d455aca95d38e', 1, 'issued.example.com', 'issued.example.com', 'active', 'aa9391c5380e86cb8682d19e4bb4f909897c49a55bd44798a9948ad83f29f1d4', '2026-11-28 12:31:18.096628+00', '2026-11-28 12:31:18.087373+00', '2026-11-28 12:31:18.201322+00', NULL, '330c2fadf61f4ac4887e2f6026ae61c6', NULL);
INSERT INTO public.domains (id, public_id, account_id, name, supplied_name, status, verification_token, verified_at, created_at, updated_at, deleted_at, delegation_label, delegated_at) OVERRIDING SYSTEM VALUE VALUES (8, 'f151685c2e54d8329946393de9a3e0ce', 1, 'cancelled.example.com', 'cancelled.example.com', 'certificate_pending', 'ac2ef123b1429185f7804339bcd453a1576ed345a0f5de371aadfcbd64ea9342', '2026-11-28 12:31:17.820976+00', '2026-11-28 12:31:17.816546+00', '2026-11-28 12:31:18.293885+00', '2026-11-28 12:31:18.293885+00', '77a104f6d8a64ee78853fc096ce23a75', NULL);
INSERT INTO public.domains (id, public_id, account_id, name, supplied_name, status, verification_token, verified_at, created_at, updated_at, deleted_at, delegation_label, delegated_at) OVERRIDING SYSTEM VALUE VALUES (16, 'fe9e2672360b2096d6e189d9fae2dec1', 2, 'accepted.example.com', 'accepted.example.com', 'pending', '9d62378820ce6a89d36f63f0b9b881793600db80ddfd50400e2b978d42423a66', NULL, '2026-11-28 12:31:18.301965+00', '2026-11-28 12:31:18.301965+00', NULL, 'b7473d6e2061445bb56b0c30e62f8c13', NULL);
INSERT INTO public.domains (id, public_id, account_id, name, supplied_name, status, verification_token, verified_at, created_at, updated_at, deleted_at, delegation_label, delegated_at) OVERRIDING SYSTEM VALUE VALUES (17, '99917f313212f22ca80918a27883d63e', 1, 'pending.example.com', 'pending.example.com', 'pending', 'a47dc0c5e2cf117ad82f0aa19f5158621f4bf86f011868e7efee9bb432454d7c', NULL, '2026-11-28 12:31:18.329303+00', '2026-11-28 12:31:18.329303+00', NULL, 'f13a4b6ffe454e39a10ea6b3a5d4c63d', NULL);
ALTER TABLE public.domains ENABLE TRIGGER ALL;
ALTER TABLE public.certificates DISABLE TRIGGER ALL;
INSERT INTO public.certificates (id, public_id, domain_id, origin, state, algorithm, csr, private_key_pem, certificate_pem, issued_at, not_before, not_after, serial_number, fingerprint_sha256, issuer, created_at, updated_at, name, common_name, alternate_names, auto_renew, successor_of, renew_at, renewal_tried_at, renewal_ended_at, ari_window_start, ari_window_end, ari_checked_at, ari_check_due) OVERRIDING SYSTEM VALUE VALUES (1, '6aeed48f4d79763ac56e2c89d7a9fb12', 1, 'challenge', 'issued', 'rsa2048', '-----BEGIN CERTIFICATE REQUEST-----
MIICeDCCAWACAQAwADCCASIwDQYJKoZIhvcNAQEBBQADggEPADCCAQoCggEBANJm
ZIbHVKHyd03wjTRBDWFIEqPsYAssEZMn5YVs8IIqLwcZX53m3jWjFxi/61afTyFE
t3reXxkwE37VgXoXnNFpPqovfhteqXCFFUj1o5MWSyzhTIydG2PvTOpj6I4HQl/i
hJIswOVJAgCy51yH1T8jIE0NwMLaIH1URLBZnvang+xOGCXLgGYJRGai1sNe7Xy7
qyTyTx+porBWWs7ovWmw+86Yhihtbshb9VpuH9pF44VuGrsDFIj5pY+KaGuvT2yz
uwdyR4Rd30UlAJX1hRnMEfPD44AsmNX2xDN6G6Cp5yVyfsZSRanJSBd0UUZ6QaYb
odaavq9aHOPePwmdJmsCAwEAAaAzMDEGCSqGSIb3DQEJDjEkMCIwIAYDVR0RAQH/
BBYwFIISYWN0aXZlLmV4YW1wbGUuY29tMA0GCSqGSIb3DQEBCwUAA4IBAQAHnd8c
/h8Sk6WwKyDW6zcc/BMvY6kndL/lBCPHZQXtAfHmIoV1/GHxj0VmN09QsMiykO4Q
Lj+oW+EAvADH66ewFK4QJV+zpPwEpg5iCPuAcN1dypWKV2h1lUNHqkCSHyqxkbUN
yjwYz7YzKjQd6dVLKae2hgs9CStZIMsfrhfUsvFVsAGo+EI7xn9Y1f2i4IeAzaW4
XlFZJ/tDScvGidKRT0XE3OJJkkb290ZWaFbJQ+Fq9ioWAZ9C+FBOqpl4IzxoP5tX
7RxEUf/g0aho8i98md2LKJtemDS/GrO6xfkSaY9liWyjJRujWdLaQRVm1bBbbh+a
GfP7HWKFMH7nRF8o
-----END CERTIFICATE REQUEST-----
', '-----BEGIN RSA PRIVATE KEY-----
MIIEowIBAAKCAQEA0mZkhsdUofJ3TfCNNEENYUgSo+xgCywRkyflhWzwgiovBxlf
nebeNaMXGL/rVp9PIUS3et5fGTATftWBehec0Wk+qi9+G16pcIUVSPWjkxZLLOFM
jJ0bY+9M6mPojgdCX+KEkizA5UkCALLnXIfVPyMgTQ3AwtogfVREsFme9qeD7E4Y
JcuAZglEZqLWw17tfLurJPJPH6misFZazui9abD7zpiGKG1uyFv1Wm4f2kXjhW4a
uwMUiPmlj4poa69PbLO7B3JHhF3fRSUAlfWFGcwR88PjgCyY1fbEM3oboKnnJXJ+
xlJFqclIF3RRRnpBphuh1pq+r1oc494/CZ0mawIDAQABAoIBAAK7Z6TEY9nyfxAZ
BoxeJ+FSgUN1p02d1eCWTQmtf3YBPDkYYEB5pfsGUh91JoYqbWmeLc+/oXZ/RFGK
TjMaqWOivTiSg02xrfuTDtKytdwMFw/PISJWS+vBSLtmbrehaoA6PcR0JlET4J3H
tO9jqCY4u4ukmRMup+tYs8eickj7n9jr8jo59Bldb9W5RNpPdK6yTza3bgk5fGl7
zh6ZpWmY1TS86wbGc6ysje2TAXdvyeinii2WSJ4ali1zcW5Qllw+x854KUAtYA5+
Jjni01G64M0rp5YEf6lw+6n46gjgybNcV4C6SEfopJPwHh0pMYpqUF00Oxyaa1G3
cPEHMkkCgYEA6M9WSFMZGijyur8HORAz9lz3IhjyoYI0k7XgiiDzAETbQYjEmxse
362ckKPbcNXDrQZzO/pmtd9Rre06Q5s3PgbI3Fp16T9HMAW3z0rxGErtpSiXaA1o
tBMNr+0AiazPJqZknNlD/B5Nr29mBK+9dF0pk+g24oi5EIksgfTWBvUCgYEA51uZ
6QpLa47AJDqtyvMmdIVyvRTUbyXfqLU0p/JRL2Ig/hZCsRXjB7JLGEP6wYkYOCrq
YBFkp/JkzJroGECrmzmneFIlqka0i8pYODOJoK7sGlqHZ2RM3UJD5VxC0X0VPP39
E9d2EYjMXwZODtYeW7ES6RM2Vzy68T1JJ7tkW98CgYB2dNjQIAgLuX4X6w7/x/DI
j/DnFo6OAzRBXC+N2MoL/v0Y0UBIM3p4EVwydE05kmrn5PpJMFWGgMSMnMIimB15
n/YfuJ96OMo98wrdnKIj3Cwi9w5i0T/PMEqskwjNBHK6lbtn21yuMbURaLsd81WQ
mb6IFYWnqi2P7lwJG8yy6QKBgQDCfuBx6ESlRFnFW0s1fZoLhRCDYpqAYi+XjdaZ
hf24Pt+Lm70vUD4O/1VgLe4Fe7JPrcxhPN4Izp7s3yFVGjDqCtr+LNkbP9uSVWY6
wSDnY4Z7VTXVtp1juMyJajmGEYikQMXcQ1svvHhLPmqq0FivLrq+FHeveQ+TtLjm
XQQuswKBgGG3xpy1djq2iMBjz+qFkziOyor0z7dc6gmHr/LVPITowgSR/QpEwCb/
2uoAOIZAa4DnqOoStM1ya1IoVNZGNnUEiVaNlo+UE92P1PYCFQS/QIgB0vf5+G3b
m6GUXfB6rKWZKAsEQwJIR98DC/iyuViKrwFTFDUhuMFK/udkQAmf
-----END RSA PRIVATE KEY-----
', '-----BEGIN CERTIFICATE-----
MIIDZzCCAk+gAwIBAgIIGDs7v4zSqpcwDQYJKoZIhvcNAQELBQAwKDEmMCQGA1UE
AxMdUGViYmxlIEludGVybWVkaWF0ZSBDQSA1MTU0NzgwHhcNMjYxMTI4MTIzMTE1
WhcNMzExMTI4MTIzMTE0WjAdMRswGQYDVQQDExJhY3RpdmUuZXhhbXBsZS5jb20w
ggEiMA0GCSqGSIb3DQEBAQUAA4IBDwAwggEKAoIBAQDSZmSGx1Sh8ndN8I00QQ1h
SBKj7GALLBGTJ+WFbPCCKi8HGV+d5t41oxcYv+tWn08hRLd63l8ZMBN+1YF6F5zR
aT6qL34bXqlwhRVI9aOTFkss4UyMnRtj70zqY+iOB0Jf4oSSLMDlSQIAsudch9U/
IyBNDcDC2iB9VESwWZ72p4PsThgly4BmCURmotbDXu18u6sk8k8fqaKwVlrO6L1p
sPvOmIYobW7IW/Vabh/aReOFbhq7AxSI+aWPimhrr09ss7sHckeEXd9FJQCV9YUZ
zBHzw+OALJjV9sQzehugqeclcn7GUkWpyUgXdFFGekGmG6HWmr6vWhzj3j8JnSZr
AgMBAAGjgZ8wgZwwDgYDVR0PAQH/BAQDAgWgMB0GA1UdJQQWMBQGCCsGAQUFBwMB
BggrBgEFBQcDAjAMBgNVHRMBAf8EAjAAMB0GA1UdDgQWBBSfch32ZbI+mR5wLP1e
ZhaAAEfM3zAfBgNVHSMEGDAWgBSa1gyTKqnNfkq5NpLuM6W42SnkozAdBgNVHREE
FjAUghJhY3RpdmUuZXhhbXBsZS5jb20wDQYJKoZIhvcNAQELBQADggEBAC5d/Pq/
maM8CZ0m6Ug+RzodsLuWCak3LAyKB/cKXbUBE0Y9QH7EnpBuQa64KXsdOOsnOO9W
ozs4voFbZu6Vr2U5eJFfwyKhMH5CWRl4hwPFY/YyxVcBpv8UlLC/QZKR0gBnwFlz
xzMiYb4ElEvN6hwdqJ5kmA0ZgMjieTWEf7by+owogDX6sP7qZONZ9bqbnlcF37De
9gF/xUjnazXM8BIjevyqxkM/uMFq88NCi03UqwN72QWwl4gj4LEYFr3V9BdRUVJv
kc7tSR43JfSy7ycXTYo/gs9NDoqp+JJT5AhA2iHmTb8mtx6pjURHwCmZPMCSpdar
tO7tidusopXYQKc=
-----END CERTIFICATE-----
-----BEGIN CERTIFICATE-----
MIIDUDCCAjigAwIBAgIIBx5FNYw1cQQwDQYJKoZIhvcNAQELBQAwIDEeMBwGA1UE
AxMVUGViYmxlIFJvb3QgQ0EgNmYzNWM4MCAXDTI2MTEyODEyMzExNFoYDzIwNTYx
MTI4MTIzMTE0WjAoMSYwJAYDVQQDEx1QZWJibGUgSW50ZXJtZWRpYXRlIENBIDUx
NTQ3ODCCASIwDQYJKoZIhvcNAQEBBQADggEPADCCAQoCggEBAMm0cgY5dDLpleCX
cw/Acdl/+5xzq7OHlcZELmli06p6yU+OBOngw/VOiNRhViYMd5yxNhhdUDyvirUU
rKXmsKSwakMqwe1g0OVAR54/RgFJik2GF72zanaAAFry5ga6TglugjuktgPQTYb8
1OdIFVguIzim4zcNd1wOVhpd0T2hyJHM2HwwlYwKfvWtVXG5B17gXXR8kP73rBa9
i9dmv7thjqr4mNp0qtxYpynZFDHRiJQ9ipeF7rvm7G/IOA/oxQymHdzfnCGKGHvT
Z1xR8o6AxWpbItHbJmg3Kk50xVlUeG3Q5se3UrrpSghgaM59P0j8PGKw1BKOskRA
l1NyHyUCAwEAAaOBgzCBgDAOBgNVHQ8BAf8EBAMCAoQwHQYDVR0lBBYwFAYIKwYB
BQUHAwEGCCsGAQUFBwMCMA8GA1UdEwEB/wQFMAMBAf8wHQYDVR0OBBYEFJrWDJMq
qc1+Srk2ku4zpbjZKeSjMB8GA1UdIwQYMBaAFALES7A9MV7pkt5hz3WtIyVl/bvz
MA0GCSqGSIb3DQEBCwUAA4IBAQB16JwBnrVawfuLHe6rXczVbsafZOWBEbfk2i6/
fteDwvtIQK4AO0rcJeG5jXoIozlhZ+jecn79VxDfHd3kdEYg/gqZYLAcVjHxdd/w
pqaE2kX/lewui/AdqV54SkRap0Qhzq6bwDuKgWSB5UdHcA9WJt/MXLaY3OAY9PpV
A5O05NPbvil6nVI/VoBV3JYtO9xS3HBPKgKggVg2KfTb0VqN5nXF2CWza4dkBRuu
e7Vn20+sLKjd87edBrGEczExIyRH6K34WGHyx5DDEdp7rF0JpFKXLgxavKjqIgJE
97ETplvmGv7sBv9KiDtNLJnKpmpNeCrzGZN3rTsaaJtlj2TC
-----END CERTIFICATE-----
', '2026-11-28 12:31:15.642059+00', '2026-11-28 12:31:15+00', '2031-11-28 12:31:14+00', '183b3bbf8cd2aa97', 'e8c2dfd6822a1473f24ffe4973d9ebc9315eeced95256a71ae46d92d0b01a881', 'Pebble Intermediate CA 515478', '2026-11-28 12:31:15.331188+00', '2026-11-28 12:31:15.643229+00', '', 'active.example.com', '{}', true, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.certificates (id, public_id, domain_id, origin, state, algorithm, csr, private_key_pem, certificate_pem, issued_at, not_before, not_after, serial_number, fingerprint_sha256, issuer, created_at, updated_at, name, common_name, alternate_names, auto_renew, successor_of, renew_at, renewal_tried_at, renewal_ended_at, ari_window_start, ari_window_end, ari_checked_at, ari_check_due) OVERRIDING SYSTEM VALUE VALUES (2, '89ea3461df242f2d52577370d4ee067a', 2, 'challenge', 'failed', 'rsa2048', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-28 12:31:15.675883+00', '2026-11-28 12:31:15.945633+00', '', 'failed.example.com', '{}', true, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.certificates (id, public_id, domain_id, origin, state, algorithm, csr, private_key_pem, certificate_pem, issued_at, not_before, not_after, serial_number, fingerprint_sha256, issuer, created_at, updated_at, name, common_name, alternate_names, auto_renew, successor_of, renew_at, renewal_tried_at, renewal_ended_at, ari_window_start, ari_window_end, ari_checked_at, ari_check_due) OVERRIDING SYSTEM VALUE VALUES (3, '4a014c775cc21f0b1c94e0f8ab2669ca', 3, 'challenge', 'failed', 'rsa2048', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-28 12:31:15.988891+00', '2026-11-28 12:31:16.008179+00', '', 'blocked.example.com', '{}', true, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.certificates (id, public_id, domain_id, origin, state, algorithm, csr, private_key_pem, certificate_pem, issued_at, not_before, not_after, serial_number, fingerprint_sha256, issuer, created_at, updated_at, name, common_name, alternate_names, auto_renew, successor_of, renew_at, renewal_tried_at, renewal_ended_at, ari_window_start, ari_window_end, ari_checked_at, ari_check_due) OVERRIDING SYSTEM VALUE VALUES (5, '587f5917874725ce8fee6b5c3b7c9459', 5, 'order', 'issued', 'ecdsa_p256', '-----BEGIN CERTIFICATE REQUEST-----
MIHwMIGXAgEAMAAwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAATd4D+lZNJbw73k
WQ8TkEcfvYZlM/zl5Ebbvo6R9rasV6cTtuU7p0KARnePstFV9kv9kZ/b4DdK8Bwt
YCvU640koDUwMwYJKoZIhvcNAQkOMSYwJDAiBgNVHREBAf8EGDAWghRyZW5ld2lu
Zy5leGFtcGxlLmNvbTAKBggqhkjOPQQDAgNIADBFAiAvjZ/5fd6EIytWnfuPtTcC
HmPxzpMrLz3Rd0vFGR2ZIgIhAJNWlB3eOyQzsyfVFatDJXfVLCV8LPn7mwyWZAxp
JPaF
-----END CERTIFICATE REQUEST-----
', '-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIJiACQdv+xoP1SLl0cLHrGQgp8WYLhCrJ1vp8beiaEe9oAoGCCqGSM49
AwEHoUQDQgAE3eA/pWTSW8O95FkPE5BHH72GZTP85eRG276Okfa2rFenE7blO6dC
gEZ3j7LRVfZL/ZGf2+A3SvAcLWAr1OuNJA==
-----END EC PRIVATE KEY-----
', '-----BEGIN CERTIFICATE-----
MIICoDCCAYigAwIBAgIIT4qznHg19iMwDQYJKoZIhvcNAQELBQAwKDEmMCQGA1UE
AxMdUGViYmxlIEludGVybWVkaWF0ZSBDQSA1MTU0NzgwHhcNMjYxMTI4MTIzMTE3
WhcNMzExMTI4MTIzMTE2WjAfMR0wGwYDVQQDExRyZW5ld2luZy5leGFtcGxlLmNv
bTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABN3gP6Vk0lvDveRZDxOQRx+9hmUz
/OXkRtu+jpH2tqxXpxO25TunQoBGd4+y0VX2S/2Rn9vgN0rwHC1gK9TrjSSjgaEw
gZ4wDgYDVR0PAQH/BAQDAgWgMB0GA1UdJQQWMBQGCCsGAQUFBwMBBggrBgEFBQcD
AjAMBgNVHRMBAf8EAjAAMB0GA1UdDgQWBBTTnUAY9u5MCwIjr/9Nojh4/7eppjAf
BgNVHSMEGDAWgBSa1gyTKqnNfkq5NpLuM6W42SnkozAfBgNVHREEGDAWghRyZW5l
d2luZy5leGFtcGxlLmNvbTANBgkqhkiG9w0BAQsFAAOCAQEAlaO9ABpvWRXXgeW7
rCuX2Ka9l5L9neg0/YvYBscXSeCIuxptVEvBOmJbi0AYiu1NY7awldzXldwsJiw6
YCvdFiHHlw9Kegad4wqf+yU77mfeulNCu0vKMsom+JrPkevGaAVYwsy4MO6W+cgF
qwSFhhhlkAsPtqb0SVkhVmO7AFGlPqvDt57nyAWWXit32/B92ZoU6BzxtefJqrxf
7Y34Wp1lJDFHdG9ItL+KJLc4u4eLm2dxZizKUASVDHzkMkoto/jHmKkm2AUVF9h0
ImLQliau6iPQpd2/mBU0cxKcFxNmLtcs5rdUoGru0nSNtLR1v+SzsvLGrHJT/00n
lgR6rw==
-----END CERTIFICATE-----
-----BEGIN CERTIFICATE-----
MIIDUDCCAjigAwIBAgIIBx5FNYw1cQQwDQYJKoZIhvcNAQELBQAwIDEeMBwGA1UE
AxMVUGViYmxlIFJvb3QgQ0EgNmYzNWM4MCAXDTI2MTEyODEyMzExNFoYDzIwNTYx
MTI4MTIzMTE0WjAoMSYwJAYDVQQDEx1QZWJibGUgSW50ZXJtZWRpYXRlIENBIDUx
NTQ3ODCCASIwDQYJKoZIhvcNAQEBBQADggEPADCCAQoCggEBAMm0cgY5dDLpleCX
cw/Acdl/+5xzq7OHlcZELmli06p6yU+OBOngw/VOiNRhViYMd5yxNhhdUDyvirUU
rKXmsKSwakMqwe1g0OVAR54/RgFJik2GF72zanaAAFry5ga6TglugjuktgPQTYb8
1OdIFVguIzim4zcNd1wOVhpd0T2hyJHM2HwwlYwKfvWtVXG5B17gXXR8kP73rBa9
i9dmv7thjqr4mNp0qtxYpynZFDHRiJQ9ipeF7rvm7G/IOA/oxQymHdzfnCGKGHvT
Z1xR8o6AxWpbItHbJmg3Kk50xVlUeG3Q5se3UrrpSghgaM59P0j8PGKw1BKOskRA
l1NyHyUCAwEAAaOBgzCBgDAOBgNVHQ8BAf8EBAMCAoQwHQYDVR0lBBYwFAYIKwYB
BQUHAwEGCCsGAQUFBwMCMA8GA1UdEwEB/wQFMAMBAf8wHQYDVR0OBBYEFJrWDJMq
qc1+Srk2ku4zpbjZKeSjMB8GA1UdIwQYMBaAFALES7A9MV7pkt5hz3WtIyVl/bvz
MA0GCSqGSIb3DQEBCwUAA4IBAQB16JwBnrVawfuLHe6rXczVbsafZOWBEbfk2i6/
fteDwvtIQK4AO0rcJeG5jXoIozlhZ+jecn79VxDfHd3kdEYg/gqZYLAcVjHxdd/w
pqaE2kX/lewui/AdqV54SkRap0Qhzq6bwDuKgWSB5UdHcA9WJt/MXLaY3OAY9PpV
A5O05NPbvil6nVI/VoBV3JYtO9xS3HBPKgKggVg2KfTb0VqN5nXF2CWza4dkBRuu
e7Vn20+sLKjd87edBrGEczExIyRH6K34WGHyx5DDEdp7rF0JpFKXLgxavKjqIgJE
97ETplvmGv7sBv9KiDtNLJnKpmpNeCrzGZN3rTsaaJtlj2TC
-----END CERTIFICATE-----
', '2026-11-28 12:31:17.163371+00', '2026-11-28 12:31:17+00', '2031-11-28 12:31:16+00', '4f8ab39c7835f623', '8896948d43652fbb39c2a2a114f505e4da6a921c7f5a80a3f74dca6a231f7bd1', 'Pebble Intermediate CA 515478', '2026-11-28 12:31:16.603263+00', '2026-11-28 12:31:17.163959+00', '', 'renewing.example.com', '{}', true, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.certificates (id, public_id, domain_id, origin, state, algorithm, csr, private_key_pem, certificate_pem, issued_at, not_before, not_after, serial_number, fingerprint_sha256, issuer, created_at, updated_at, name, common_name, alternate_names, auto_renew, successor_of, renew_at, renewal_tried_at, renewal_ended_at, ari_window_start, ari_window_end, ari_checked_at, ari_check_due) OVERRIDING SYSTEM VALUE VALUES (6, '1e15212b8876dbb453011427c69f59ea', 4, 'renewal', 'issued', 'ecdsa_p256', '-----BEGIN CERTIFICATE REQUEST-----
MIHvMIGWAgEAMAAwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARwbWjRsf10eO1P
3nclubonHCiDqhs+X6l4f2+c/CiFIM2SlWTYZPBlAUh2yK1TUv3MDvc0pI/Cg4Yl
iLkOSsZGoDQwMgYJKoZIhvcNAQkOMSUwIzAhBgNVHREBAf8EFzAVghNyZW5ld2Vk
LmV4YW1wbGUuY29tMAoGCCqGSM49BAMCA0gAMEUCIQDy/shVYwKd8moLkZNcoHSS
LScBpwGdLZGMA+bfmeHJIgIgSgeyty/l25vqKZfCqvXMaDcpai3O/3yHV6j+ry8C
ups=
-----END CERTIFICATE REQUEST-----
', '-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIMZGEkWrbajVf7X79Vqplm/Yn9nW8558YKWh0EcrZKOtoAoGCCqGSM49
AwEHoUQDQgAEcG1o0bH9dHjtT953Jbm6Jxwog6obPl+peH9vnPwohSDNkpVk2GTw
ZQFIdsitU1L9zA73NKSPwoOGJYi5DkrGRg==
-----END EC PRIVATE KEY-----
', '-----BEGIN CERTIFICATE-----
MIICnjCCAYagAwIBAgIIB7+GXs79JGQwDQYJKoZIhvcNAQELBQAwKDEmMCQGA1UE
AxMdUGViYmxlIEludGVybWVkaWF0ZSBDQSA1MTU0NzgwHhcNMjYxMTI4MTIzMTE3
WhcNMzExMTI4MTIzMTE2WjAeMRwwGgYDVQQDExNyZW5ld2VkLmV4YW1wbGUuY29t
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEcG1o0bH9dHjtT953Jbm6Jxwog6ob
Pl+peH9vnPwohSDNkpVk2GTwZQFIdsitU1L9zA73NKSPwoOGJYi5DkrGRqOBoDCB
nTAOBgNVHQ8BAf8EBAMCBaAwHQYDVR0lBBYwFAYIKwYBBQUHAwEGCCsGAQUFBwMC
MAwGA1UdEwEB/wQCMAAwHQYDVR0OBBYEFFAM/FCW6Elm12bG+BQETOWCfu7MMB8G
A1UdIwQYMBaAFJrWDJMqqc1+Srk2ku4zpbjZKeSjMB4GA1UdEQQXMBWCE3JlbmV3
ZWQuZXhhbXBsZS5jb20wDQYJKoZIhvcNAQELBQADggEBAGrGNMzFIKfLyusJ+yTA
wLHMxjzKRnZp7L7DhuHHRjUigOVhuUWSXau29GgS3nBI55xG+kyos6GjX03jXgAb
9QoIvTW6SLXkPrEhX1uncayBH/GwuEg1DwZOPpXUt244cXOX1GepPnuQzw5Jxpu2
H7wOXUMAoUO6pUNDm04B2wPSfDlaFiLPVWbhc7OxUmXi/90ecz0618Fviv38SxMU
9YSHAZLs0sBI1suZYYQ7UySXtTINGnF5xzr+GOzznolcNkl7DNZ9ilTUtGM9Icfy
kpdW94YLjjKuTyCLR2tVBdf0aoaNHC+h0/GAZb4OyWBtWvlJIG7oZrW3+UyZro7B
V44=
-----END CERTIFICATE-----
-----BEGIN CERTIFICATE-----
MIIDUDCCAjigAwIBAgIIBx5FNYw1cQQwDQYJKoZIhvcNAQELBQAwIDEeMBwGA1UE
AxMVUGViYmxlIFJvb3QgQ0EgNmYzNWM4MCAXDTI2MTEyODEyMzExNFoYDzIwNTYx
MTI4MTIzMTE0WjAoMSYwJAYDVQQDEx1QZWJibGUgSW50ZXJtZWRpYXRlIENBIDUx
NTQ3ODCCASIwDQYJKoZIhvcNAQEBBQADggEPADCCAQoCggEBAMm0cgY5dDLpleCX
cw/Acdl/+5xzq7OHlcZELmli06p6yU+OBOngw/VOiNRhViYMd5yxNhhdUDyvirUU
rKXmsKSwakMqwe1g0OVAR54/RgFJik2GF72zanaAAFry5ga6TglugjuktgPQTYb8
1OdIFVguIzim4zcNd1wOVhpd0T2hyJHM2HwwlYwKfvWtVXG5B17gXXR8kP73rBa9
i9dmv7thjqr4mNp0qtxYpynZFDHRiJQ9ipeF7rvm7G/IOA/oxQymHdzfnCGKGHvT
Z1xR8o6AxWpbItHbJmg3Kk50xVlUeG3Q5se3UrrpSghgaM59P0j8PGKw1BKOskRA
l1NyHyUCAwEAAaOBgzCBgDAOBgNVHQ8BAf8EBAMCAoQwHQYDVR0lBBYwFAYIKwYB
BQUHAwEGCCsGAQUFBwMCMA8GA1UdEwEB/wQFMAMBAf8wHQYDVR0OBBYEFJrWDJMq
qc1+Srk2ku4zpbjZKeSjMB8GA1UdIwQYMBaAFALES7A9MV7pkt5hz3WtIyVl/bvz
MA0GCSqGSIb3DQEBCwUAA4IBAQB16JwBnrVawfuLHe6rXczVbsafZOWBEbfk2i6/
fteDwvtIQK4AO0rcJeG5jXoIozlhZ+jecn79VxDfHd3kdEYg/gqZYLAcVjHxdd/w
pqaE2kX/lewui/AdqV54SkRap0Qhzq6bwDuKgWSB5UdHcA9WJt/MXLaY3OAY9PpV
A5O05NPbvil6nVI/VoBV3JYtO9xS3HBPKgKggVg2KfTb0VqN5nXF2CWza4dkBRuu
e7Vn20+sLKjd87edBrGEczExIyRH6K34WGHyx5DDEdp7rF0JpFKXLgxavKjqIgJE
97ETplvmGv7sBv9KiDtNLJnKpmpNeCrzGZN3rTsaaJtlj2TC
-----END CERTIFICATE-----
', '2026-11-28 12:31:17.725581+00', '2026-11-28 12:31:17+00', '2031-11-28 12:31:16+00', '07bf865ecefd2464', 'ff9e648175fdb7b279a04ee2ef853f80eabab24894f5a3297e2109667543c1b2', 'Pebble Intermediate CA 515478', '2026-11-28 12:31:17.204161+00', '2026-11-28 12:31:17.726037+00', '', 'renewed.example.com', '{}', true, 4, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.certificates (id, public_id, domain_id, origin, state, algorithm, csr, private_key_pem, certificate_pem, issued_at, not_before, not_after, serial_number, fingerprint_sha256, issuer, created_at, updated_at, name, common_name, alternate_names, auto_renew, successor_of, renew_at, renewal_tried_at, renewal_ended_at, ari_window_start, ari_window_end, ari_checked_at, ari_check_due) OVERRIDING SYSTEM VALUE VALUES (4, '69d50b47e7785f31583ea8690fec49bb', 4, 'order', 'issued', 'ecdsa_p256', '-----BEGIN CERTIFICATE REQUEST-----
MIHwMIGWAgEAMAAwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASJ+rHJGNsqUjuh
/gy3x+PAVQbuCdJwbJXwXLsHsD3RxIYqTQ4urnH0VoiKYFVWVSKMKB4CuKAKrHdP
m1xs6bIWoDQwMgYJKoZIhvcNAQkOMSUwIzAhBgNVHREBAf8EFzAVghNyZW5ld2Vk
LmV4YW1wbGUuY29tMAoGCCqGSM49BAMCA0kAMEYCIQDqsDfdkr3zYXAx2xOynE0W
f6o+hlUAyYTw54OhcWoOvgIhAMhO0/xaqkMbC8MKhdb+yHkSsQusW4mr7TjOPcrt
m6lt
-----END CERTIFICATE REQUEST-----
', '-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIDwyEuMEbRNKkSlDSex/auA8YrEURWjKqr4Zt8fs2oAqoAoGCCqGSM49
AwEHoUQDQgAEifqxyRjbKlI7of4Mt8fjwFUG7gnScGyV8Fy7B7A90cSGKk0OLq5x
9FaIimBVVlUijCgeArigCqx3T5tcbOmyFg==
-----END EC PRIVATE KEY-----
', '-----BEGIN CERTIFICATE-----
MIICnjCCAYagAwIBAgIIJlQ2/W8JkhQwDQYJKoZIhvcNAQELBQAwKDEmMCQGA1UE
AxMdUGViYmxlIEludGVybWVkaWF0ZSBDQSA1MTU0NzgwHhcNMjYxMTI4MTIzMTE2
WhcNMzExMTI4MTIzMTE1WjAeMRwwGgYDVQQDExNyZW5ld2VkLmV4YW1wbGUuY29t
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEifqxyRjbKlI7of4Mt8fjwFUG7gnS
cGyV8Fy7B7A90cSGKk0OLq5x9FaIimBVVlUijCgeArigCqx3T5tcbOmyFqOBoDCB
nTAOBgNVHQ8BAf8EBAMCBaAwHQYDVR0lBBYwFAYIKwYBBQUHAwEGCCsGAQUFBwMC
MAwGA1UdEwEB/wQCMAAwHQYDVR0OBBYEFC7lRJ56jWXTF8HnlmbCa7r3mHU/MB8G
A1UdIwQYMBaAFJrWDJMqqc1+Srk2ku4zpbjZKeSjMB4GA1UdEQQXMBWCE3JlbmV3
ZWQuZXhhbXBsZS5jb20wDQYJKoZIhvcNAQELBQADggEBAIza093riciqZVxgiH6x
kypBq3+xcZxubI/Y6pGO6j4jY0ngCBiyo4vD4qROeikeRoOUGTQuaID2rjZQDGs/
EjaXHuFwbD3M3X8bqeoA+l73SVUJVFtzXKUJOZuYTf2TBo1ja+5dAqYpJ2z1M+kU
3IZgpuBBWiF/+0fRbViZmu/KGPwFAG6fnP0jsll48qCYffCO6038foqgMr9QgUmN
HXBg41jhBIEwoAhfy8qMeltEwf2QUcvxf++SdYFJbZisiMgr2DINWEHL9PCMjgxy
fzcnrSP6PzleLiWdzLj9+GIdH3V2E56cQLRT0JZLSJZNDWEIWy4H/Hf+8mtaIHRE
5Co=
-----END CERTIFICATE-----
-----BEGIN CERTIFICATE-----
MIIDUDCCAjigAwIBAgIIBx5FNYw1cQQwDQYJKoZIhvcNAQELBQAwIDEeMBwGA1UE
AxMVUGViYmxlIFJvb3QgQ0EgNmYzNWM4MCAXDTI2MTEyODEyMzExNFoYDzIwNTYx
MTI4MTIzMTE0WjAoMSYwJAYDVQQDEx1QZWJibGUgSW50ZXJtZWRpYXRlIENBIDUx
NTQ3ODCCASIwDQYJKoZIhvcNAQEBBQADggEPADCCAQoCggEBAMm0cgY5dDLpleCX
cw/Acdl/+5xzq7OHlcZELmli06p6yU+OBOngw/VOiNRhViYMd5yxNhhdUDyvirUU
rKXmsKSwakMqwe1g0OVAR54/RgFJik2GF72zanaAAFry5ga6TglugjuktgPQTYb8
1OdIFVguIzim4zcNd1wOVhpd0T2hyJHM2HwwlYwKfvWtVXG5B17gXXR8kP73rBa9
i9dmv7thjqr4mNp0qtxYpynZFDHRiJQ9ipeF7rvm7G/IOA/oxQymHdzfnCGKGHvT
Z1xR8o6AxWpbItHbJmg3Kk50xVlUeG3Q5se3UrrpSghgaM59P0j8PGKw1BKOskRA
l1NyHyUCAwEAAaOBgzCBgDAOBgNVHQ8BAf8EBAMCAoQwHQYDVR0lBBYwFAYIKwYB
BQUHAwEGCCsGAQUFBwMCMA8GA1UdEwEB/wQFMAMBAf8wHQYDVR0OBBYEFJrWDJMq
qc1+Srk2ku4zpbjZKeSjMB8GA1UdIwQYMBaAFALES7A9MV7pkt5hz3WtIyVl/bvz
MA0GCSqGSIb3DQEBCwUAA4IBAQB16JwBnrVawfuLHe6rXczVbsafZOWBEbfk2i6/
fteDwvtIQK4AO0rcJeG5jXoIozlhZ+jecn79VxDfHd3kdEYg/gqZYLAcVjHxdd/w
pqaE2kX/lewui/AdqV54SkRap0Qhzq6bwDuKgWSB5UdHcA9WJt/MXLaY3OAY9PpV
A5O05NPbvil6nVI/VoBV3JYtO9xS3HBPKgKggVg2KfTb0VqN5nXF2CWza4dkBRuu
e7Vn20+sLKjd87edBrGEczExIyRH6K34WGHyx5DDEdp7rF0JpFKXLgxavKjqIgJE
97ETplvmGv7sBv9KiDtNLJnKpmpNeCrzGZN3rTsaaJtlj2TC
-----END CERTIFICATE-----
', '2026-11-28 12:31:16.575192+00', '2026-11-28 12:31:16+00', '2031-11-28 12:31:15+00', '265436fd6f099214', 'c40d55cf31f1092b125fa23aa9abcf5f57c8a1e23f8885050879157067b9ad9e', 'Pebble Intermediate CA 515478', '2026-11-28 12:31:16.043168+00', '2026-11-28 12:31:16.575908+00', '', 'renewed.example.com', '{}', true, NULL, NULL, NULL, '2026-11-28 12:31:17.726037+00', NULL, NULL, NULL, NULL);
INSERT INTO public.certificates (id, public_id, domain_id, origin, state, algorithm, csr, private_key_pem, certificate_pem, issued_at, not_before, not_after, serial_number, fingerprint_sha256, issuer, created_at, updated_at, name, common_name, alternate_names, auto_renew, successor_of, renew_at, renewal_tried_at, renewal_ended_at, ari_window_start, ari_window_end, ari_checked_at, ari_check_due) OVERRIDING SYSTEM VALUE VALUES (7, 'f22ea0d31c616e7e28fcf4798658f3bb', 6, 'challenge', 'requesting', 'rsa2048', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-28 12:31:17.763027+00', '2026-11-28 12:31:17.763027+00', '', 'presented.example.com', '{}', true, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.certificates (id, public_id, domain_id, origin, state, algorithm, csr, private_key_pem, certificate_pem, issued_at, not_before, not_after, serial_number, fingerprint_sha256, issuer, created_at, updated_at, name, common_name, alternate_names, auto_renew, successor_of, renew_at, renewal_tried_at, renewal_ended_at, ari_window_start, ari_window_end, ari_checked_at, ari_check_due) OVERRIDING SYSTEM VALUE VALUES (8, 'ba41f36488be99bf870ad92daaf560f8', 7, 'challenge', 'requesting', 'rsa2048', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-28 12:31:17.795658+00', '2026-11-28 12:31:17.795658+00', '', 'parked.example.com', '{}', true, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.certificates (id, public_id, domain_id, origin, state, algorithm, csr, private_key_pem, certificate_pem, issued_at, not_before, not_after, serial_number, fingerprint_sha256, issuer, created_at, updated_at, name, common_name, alternate_names, auto_renew, successor_of, renew_at, renewal_tried_at, renewal_ended_at, ari_window_start, ari_window_end, ari_checked_at, ari_check_due) OVERRIDING SYSTEM VALUE VALUES (10, '5acafaa8c43b1660893c397822b7f840', 9, 'order', 'requesting', 'ecdsa_p256', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-28 12:31:17.849429+00', '2026-11-28 12:31:17.852409+00', '*', '*.placed.example.com', '{}', false, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.certificates (id, public_id, domain_id, origin, state, algorithm, csr, private_key_pem, certificate_pem, issued_at, not_before, not_after, serial_number, fingerprint_sha256, issuer, created_at, updated_at, name, common_name, alternate_names, auto_renew, successor_of, renew_at, renewal_tried_at, renewal_ended_at, ari_window_start, ari_window_end, ari_checked_at, ari_check_due) OVERRIDING SYSTEM VALUE VALUES (11, 'e3bb7114a269371127470e7254aa29e7', 10, 'challenge', 'requesting', 'rsa2048', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-28 12:31:17.896337+00', '2026-11-28 12:31:17.896337+00', '', 'confirmed.example.com', '{}', true, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.certificates (id, public_id, domain_id, origin, state, algorithm, csr, private_key_pem, certificate_pem, issued_at, not_before, not_after, serial_number, fingerprint_sha256, issuer, created_at, updated_at, name, common_name, alternate_names, auto_renew, successor_of, renew_at, renewal_tried_at, renewal_ended_at, ari_window_start, ari_window_end, ari_checked_at, ari_check_due) OVERRIDING SYSTEM VALUE VALUES (12, '67ba68f7944ebd5fe59a569c2115e15b', 11, 'challenge', 'requesting', 'rsa2048', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-28 12:31:17.938495+00', '2026-11-28 12:31:17.938495+00', '', 'responded.example.com', '{}', true, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.certificates (id, public_id, domain_id, origin, state, algorithm, csr, private_key_pem, certificate_pem, issued_at, not_before, not_after, serial_number, fingerprint_sha256, issuer, created_at, updated_at, name, common_name, alternate_names, auto_renew, successor_of, renew_at, renewal_tried_at, renewal_ended_at, ari_window_start, ari_window_end, ari_checked_at, ari_check_due) OVERRIDING SYSTEM VALUE VALUES (13, 'cb56e6c557bdc6e14d5231526d47758a', 12, 'order', 'requesting', 'ecdsa_p256', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-28 12:31:17.965801+00', '2026-11-28 12:31:17.97243+00', '', 'authorized.example.com', '{www.authorized.example.com}', false, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.certificates (id, public_id, domain_id, origin, state, algorithm, csr, private_key_pem, certificate_pem, issued_at, not_before, not_after, serial_number, fingerprint_sha256, issuer, created_at, updated_at, name, common_name, alternate_names, auto_renew, successor_of, renew_at, renewal_tried_at, renewal_ended_at, ari_window_start, ari_window_end, ari_checked_at, ari_check_due) OVERRIDING SYSTEM VALUE VALUES (14, '8aaa8405ef65693578a4351d3c0946a9', 13, 'challenge', 'requesting', 'rsa2048', '-----BEGIN CERTIFICATE REQUEST-----
MIICejCCAWICAQAwADCCASIwDQYJKoZIhvcNAQEBBQADggEPADCCAQoCggEBALUs
kOXm6EcTAINKI5gz6bmK63kH7+XGfApDj8cilrt4Dz9SQWz2s8KA9FMVJki51bVl
hF7op5Zj4OHS3Bl60HFgD/8BgnvMpoxQtwt+Yh2FtoK38DUMgenlFdHi/UFdcqr1
ook7ZB+1NtK1JAyK5FWSIXQYO448NoTIwl+nx/UNUjDin6Ww1kMV49LBW/YCkHjv
yowkrUAf2Tyeq62HMLqoVZVdgSdydg9XLNW7jWS3piYMKgb6gn0UmiynAK0Mg/Je
IZfNHY+Uu+rSOT4iQunymGTJGg0kgfhq3LNs7Jbj/JQp6Fj8vHaBxYNClxjtunzm
EslAfUpMqsbH5i/QlvkCAwEAAaA1MDMGCSqGSIb3DQEJDjEmMCQwIgYDVR0RAQH/
BBgwFoIUcHJlcGFyZWQuZXhhbXBsZS5jb20wDQYJKoZIhvcNAQELBQADggEBAKZ6
0vr0Wj1/A7JmcLG4BiB1Q0MBXQSeENHehy02Nj1Rfu71ioM4RMn76/ePyFOvgXlH
z07zn9BuTyLLwXFtqmZtE9vTCpOjTgxnugQzMJHYS4wN4mRPkHdCYS1QLiCJvPjc
DR/OhRtqpu1p1L9HgxyhwDCRT9DBbMr/kMrcJpWp88bnzHvLevmdvyQQ293bx6Hg
BUV0lgLiqzqktS3D0QL/SxKhO61dHUkdxotJIHkXf+6Vp4mjKuBjuYyi0m8vzV5A
7A3EzloC1zcH2TOOEa9bYPSrWTXcAPQMAOetR0nkVpWnASIlxFxM4JifUGIwyN+A
GiGaR4xYMfJyWfNH/h0=
-----END CERTIFICATE REQUEST-----
', '-----BEGIN RSA PRIVATE KEY-----
MIIEpAIBAAKCAQEAtSyQ5eboRxMAg0ojmDPpuYrreQfv5cZ8CkOPxyKWu3gPP1JB
bPazwoD0UxUmSLnVtWWEXuinlmPg4dLcGXrQcWAP/wGCe8ymjFC3C35iHYW2grfw
NQyB6eUV0eL9QV1yqvWiiTtkH7U20rUkDIrkVZIhdBg7jjw2hMjCX6fH9Q1SMOKf
pbDWQxXj0sFb9gKQeO/KjCStQB/ZPJ6rrYcwuqhVlV2BJ3J2D1cs1buNZLemJgwq
BvqCfRSaLKcArQyD8l4hl80dj5S76tI5PiJC6fKYZMkaDSSB+Grcs2zsluP8lCno
WPy8doHFg0KXGO26fOYSyUB9SkyqxsfmL9CW+QIDAQABAoIBAFKpTkUu6OzAvTup
wHrJuMp4mT5EAk8uk9qk/70mSWqoeSB1ebdrChJk/tTHcgu9ikW010PsV8ZUtL6k
E9smP2NzJmk9eZjdg2HC0/lRBRgeMWsL3HN/zOh4Js/4Bn/j0JUy9KEzcVfMOQLD
NfrpBgwK2+uZwNaBH4jPBmxZY3CpCRg7v5hbIf4BG+I8CbCtBiYMJEAePnTrtey1
RDYyn9nyO6V/UqU2hYeWJM7JoDaw8M+42YplBTmTfOhs9LleiYpr4cuHHQQF74/Z
k0cjl0eju7Ec8RX7RtH/6lT09OQPygxRvO1EM7RlUWGr/DzW3rxM4fIxOEW1bDwR
TE2+XZ8CgYEA8A6b30zPXHuEEzLThcl7Nfv92jS5RZiqKO/M0aycJTmDjtfNZwdC
gsb1MbDi2YlHBIHjkzEf4jFqXZ7+Z+7gpcrPxHsxnPmAEhtLy5GV9MqWtzyMy11D
w7c5jhfYhEzbKGTtCgBPjS2B7H5CEMDCw94ZoJ4Q/fx6YnKl8mbJxG8CgYEAwTTX
3Fi0C7MbXBm81xIxH8XoUUfNs9Ubn6T89YmZRReoSspLRWdNL4Hd+ACh1Q9eOoNS
9Ah8YXmjW4ifD+yGahVGGD+g+QGNjNhHK8zpVImOEFliu9Q2vpyjv9NKdHaiP7ya
FEMVXFAvwVSCUBD8sCh9xdOBob0dPiP+4aXBnxcCgYEA1ddtqsE1huDQinmgS3Fr
vG85dwO4dvLDwau7/JuSjOZq9vfuFXU2HmE1UoqLydSr2qwKGbiM+mWiprtXTSZS
H95GrnQ/geIP4BFIt5J8zo8ZKylZEl+GWfYB4z4Ctffw0k71iQ81zkFXl1/xYhMU
bH6Qva+Q22/pZYFTqlc+LSkCgYBN70bzt0RJQ+JRcIBgMRJnwqlHwDMVy2ztJNx1
HyAYYsacBKYARP85nqUvGPIuw5g6+iZIEfQ6TZq7nYysG7jMqfAwb9o7F4lFuyha
XrnwQ9xuc+AD7EJ4+S6EfnKWMBSaqTVt3vGK3z2kOramHXQQiwTQ+9RarbJSEqsJ
0pcb2QKBgQCWzR8xuEvcQR7RuvHvPXLyd86a/dMwJIDhRFj+Ob3FHISJRew6kpOs
rlsBA3y6ElDE83SZmWGjGCsCdvznojVHC6tlo00q1FjiU002EA9siiGMr7qwX96n
u6bDZ1REgnq6wNORwr6WzoTU/ztuGwIhkeUomj2HUZ91kd69gjsaZg==
-----END RSA PRIVATE KEY-----
', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-28 12:31:17.994382+00', '2026-11-28 12:31:18.100408+00', '', 'prepared.example.com', '{}', true, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.certificates (id, public_id, domain_id, origin, state, algorithm, csr, private_key_pem, certificate_pem, issued_at, not_before, not_after, serial_number, fingerprint_sha256, issuer, created_at, updated_at, name, common_name, alternate_names, auto_renew, successor_of, renew_at, renewal_tried_at, renewal_ended_at, ari_window_start, ari_window_end, ari_checked_at, ari_check_due) OVERRIDING SYSTEM VALUE VALUES (9, 'ab61f86e60f5e6272d6459d7d71df834', 8, 'challenge', 'cancelled', 'rsa2048', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-28 12:31:17.825459+00', '2026-11-28 12:31:18.293885+00', '', 'cancelled.example.com', '{}', true, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.certificates (id, public_id, domain_id, origin, state, algorithm, csr, private_key_pem, certificate_pem, issued_at, not_before, not_after, serial_number, fingerprint_sha256, issuer, created_at, updated_at, name, common_name, alternate_names, auto_renew, successor_of, renew_at, renewal_tried_at, renewal_ended_at, ari_window_start, ari_window_end, ari_checked_at, ari_check_due) OVERRIDING SYSTEM VALUE VALUES (17, 'f23b2946e1d8bbb94740505e2fed2559', 16, 'order', 'requesting', 'ecdsa_p256', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-28 12:31:18.305926+00', '2026-11-28 12:31:18.308563+00', '', 'accepted.example.com', '{}', false, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.certificates (id, public_id, domain_id, origin, state, algorithm, csr, private_key_pem, certificate_pem, issued_at, not_before, not_after, serial_number, fingerprint_sha256, issuer, created_at, updated_at, name, common_name, alternate_names, auto_renew, successor_of, renew_at, renewal_tried_at, renewal_ended_at, ari_window_start, ari_window_end, ari_checked_at, ari_check_due) OVERRIDING SYSTEM VALUE VALUES (18, 'b5c2b689f6429df4b9727242f178cd9d', 5, 'renewal', 'requesting', 'ecdsa_p256', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-28 12:31:18.313017+00', '2026-11-28 12:31:18.3173+00', '', 'renewing.example.com', '{}', true, 5, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.certificates (id, public_id, domain_id, origin, state, algorithm, csr, private_key_pem, certificate_pem, issued_at, not_before, not_after, serial_number, fingerprint_sha256, issuer, created_at, updated_at, name, common_name, alternate_names, auto_renew, successor_of, renew_at, renewal_tried_at, renewal_ended_at, ari_window_start, ari_window_end, ari_checked_at, ari_check_due) OVERRIDING SYSTEM VALUE VALUES (15, '854e0540e84169ec2f4dad0d64f62939', 14, 'challenge', 'requesting', 'rsa2048', '-----BEGIN CERTIFICATE REQUEST-----
MIICfDCCAWQCAQAwADCCASIwDQYJKoZIhvcNAQEBBQADggEPADCCAQoCggEBAMei
gMkDtOlCAv+JlSp+nKVRAPP78WNF91IYqE7eCZgzlYB3tjfY/6Xn0HlA/TsY/NFS
z+fj16t/6aFisdMPt5Arbr18eUFFX9zbcTIgasHGOBW3dD2z5QlqgWkkCVh1ourF
PDFBSKQgxzumSyNX+P92NZV+V6vzJsB+3azhQPraJU8OT4aMIkRnCOna0x0ZiWRB
5Fyxdxjjx1dX2l6GVXjY1QRiLITbozCI1feMvfgAW/inWNFPZfusWzaG+5l+nfp/
B9kxmygH7nPmfTE+wqaQC3Fylb4Y+gTIfPva6iRtLb0emsRhcNvshw83sR19vWIj
+6CzZCnXCAxKyrMrWlECAwEAAaA3MDUGCSqGSIb3DQEJDjEoMCYwJAYDVR0RAQH/
BBowGIIWZmluYWxpemluZy5leGFtcGxlLmNvbTANBgkqhkiG9w0BAQsFAAOCAQEA
FpQm3qAGN4oaSllPGK4NMQ6hTXNPw5SpXsV61gmomS1JDAxF8NCuhZG/wLnM+Gjb
ZGWGOIdyzp7mwwBSpF8fuRzUIj983q0Vo92C8DVDO3GSnqaOjHPeKpquyFSIUoZZ
by7amOAnMOcQr9mXzEWhDjSDItkIEJy+eb7RRcoQIT4nmoNHzsViTZEkJiaTLlDK
xxn7QdE7rjc1BnAPMEQIJuidMT564vkwssBgWVJ0TcZGBvEVN7RF1y5Jc32NKIoE
VcBgkrZg8CsNYUnAcGxh1r7eX4fHLKOhqynhuAwKn0ksfq1Js9ZZOHjRR4H8I3O9
1SWDQMi9yVOhP1+4zfRUKQ==
-----END CERTIFICATE REQUEST-----
', '-----BEGIN RSA PRIVATE KEY-----
MIIEowIBAAKCAQEAx6KAyQO06UIC/4mVKn6cpVEA8/vxY0X3UhioTt4JmDOVgHe2
N9j/pefQeUD9Oxj80VLP5+PXq3/poWKx0w+3kCtuvXx5QUVf3NtxMiBqwcY4Fbd0
PbPlCWqBaSQJWHWi6sU8MUFIpCDHO6ZLI1f4/3Y1lX5Xq/MmwH7drOFA+tolTw5P
howiRGcI6drTHRmJZEHkXLF3GOPHV1faXoZVeNjVBGIshNujMIjV94y9+ABb+KdY
0U9l+6xbNob7mX6d+n8H2TGbKAfuc+Z9MT7CppALcXKVvhj6BMh8+9rqJG0tvR6a
xGFw2+yHDzexHX29YiP7oLNkKdcIDErKsytaUQIDAQABAoIBACnaOCysQcO7Kpy/
D84qYBXKbyw3cApTcz+7WqG6LAHEIr4dms6HiEUUXeDlzpESsoIB3gNsAV17ghPq
+IPaoi2v5VYFX/hennPTb55GLIt2TnDDFrQO4GACe6H6w5jPhLm6Yt2ipaN/GbW4
Lb15poKMGjy+kYvDfKbTkg655KESNsPvOykMD+nDbC1Tz1UMb/jpn6Z+geaAw1k5
/5XiJONoP7ADKYySw2VB2Ux8L3bbEsngKMgchcBqAhB/zWfWERtSwPc5Bc5W8EZG
uzJGShcpMoPD1sL7c8z8UVyaKoeY5059jx/YbIvEoQiSrLKbV/CdAMDPa6T7ck7W
yqFy7VcCgYEA8rLUMDa8CprWHe/KxQmrN8bTZTEE203O4WLSlDBwNjFldxoJ9X4Q
m5KxKtUzArhWXUPs0ZToMBWoNV19FpcsFexY2ukpbhb04ed4azoJe4jRsVpPeWRv
Ndn7c4j+A3LKtnc3KkHVEYiRaOaaA43l+A+laDsCK2Bd7TSB77LpUbsCgYEA0pN4
SZ7sA4ro1gUfDRTqn+IZfpmhZzP/aJZRZ67s3W5jzDbjqwcMUXwAXrUGb6phZn+u
4UzLROYV/SBk2bcalrYyisVYZbiaaU5WXGbrQ1gThtY5fN6VMNnn9q2StrhHQLNh
nC1B8BrspmLBJidosfRke8sftn4MILdTOGaazWMCgYEAtqeF8F9ROD39xXwRxCcZ
uBmoQXEZ8Z7mg1QnnaWy3eZhMbjkI+FjyGInelAIWxS20uxrD/Scpou2E6uvl8/g
OwOsf9yY9KTMWjQlubVtK472Gh8YzwiadhH/H53LZnb/P0ILv37aR57bqPJcmS4z
FHVaDE7UvCaDqiEpZWfmFz8CgYA/cG4sv9QavR6oW6KfLk4BHPzRRzd5ABFSUPb1
ZZ22mCs4utCcFeOAKPtzjNYDjjEJ0C2/coNKnobBW6EGdkNsZDeV1x5qhtL+Jrud
2uPFxiMb3C41kFkh/oQDrQcmRR4yP9iIVJoo2/OvrNDDzducwSQEp41GTXMZ6CEK
PN8mQQKBgDbmUSo5uKQR1YBsrMvxLjfBnv5Sfjd4f62cGSBjGtGfZb4liZM/9PU1
RRlix8Pk4P+XV7XoWGM1uhk0AIpq+BhjhrNYZaq+EFYrjtcja4r302VflHQWYU2k
IvPwp4rO00P8yqJyvdx5+hxRXKoBMwAJPDTN9d3xRgdouoMTlTy7
-----END RSA PRIVATE KEY-----
', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-28 12:31:18.048122+00', '2026-11-28 12:31:18.163624+00', '', 'finalizing.example.com', '{}', true, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.certificates (id, public_id, domain_id, origin, state, algorithm, csr, private_key_pem, certificate_pem, issued_at, not_before, not_after, serial_number, fingerprint_sha256, issuer, created_at, updated_at, name, common_name, alternate_names, auto_renew, successor_of, renew_at, renewal_tried_at, renewal_ended_at, ari_window_start, ari_window_end, ari_checked_at, ari_check_due) OVERRIDING SYSTEM VALUE VALUES (16, '3788f5ee3b11c0c4295e1808c643c544', 15, 'challenge', 'issued', 'rsa2048', '-----BEGIN CERTIFICATE REQUEST-----
MIICeDCCAWACAQAwADCCASIwDQYJKoZIhvcNAQEBBQADggEPADCCAQoCggEBALnG
gYa4JxY4pv/ajQXOt/mIP8+7M7V7rpj9hFtyBPAyjdEcS2dk4ttK7lp2nFF4Up+7
R2cA4eujPYhPMtq8v4FuhWeQhopjsleW+TSc30Naa85d23Fuw5mF4x9yL2RX3CBV
h9dB5HJsl3tit6xCtPWBrU7a1/uQxYrDPwbH7svLxGcUQrPw6sDsp2wSHRdux6Aa
J1esOSb3twoFJAJrvHH+P2BcsvuQqX+OI4ojbGlP8KnyzARHOENgNce0zsY+nryf
OMahIxDNdZjWaNeyRzhWPKUs4guhtVUjYn8UHSg0q6dxNHcYDwuf+A7YwyEJK9PL
0rOlRBXoofwn+t/h0r8CAwEAAaAzMDEGCSqGSIb3DQEJDjEkMCIwIAYDVR0RAQH/
BBYwFIISaXNzdWVkLmV4YW1wbGUuY29tMA0GCSqGSIb3DQEBCwUAA4IBAQBMDu24
sUhuA/hMobh5G2NtVeHMRTB8LKVUXRHDi4ge+SK2yPj6/yQllle2C//x/RiM2Sko
bHJQyBijmAzAHp1QwCr7Hw5f1WU4ap5j8rCY8jbB/KGoNdCxhG0p+9SAr1m7Ym5M
O/1qLIxOZ8/mSuFas2bTXk4/rILfzxZzstgOx9XFk0W3M2svDexPml6q2kzU44bO
TgKHliotS874Pn1DicF3sUwpTtCx1lAt0cX+ctiaZDhAF8Mdu21IrweSdxnIboa0
GJPUzlriEy6ATV3T/mt9IKGAT/MJOGqNiUhRWCRQJSXc0ycGZKUaKER+LIsXeNy8
kM1pnEpDpVQpfVZ8
-----END CERTIFICATE REQUEST-----
', '-----BEGIN RSA PRIVATE KEY-----
MIIEpQIBAAKCAQEAucaBhrgnFjim/9qNBc63+Yg/z7sztXuumP2EW3IE8DKN0RxL
Z2Ti20ruWnacUXhSn7tHZwDh66M9iE8y2ry/gW6FZ5CGimOyV5b5NJzfQ1przl3b
cW7DmYXjH3IvZFfcIFWH10HkcmyXe2K3rEK09YGtTtrX+5DFisM/Bsfuy8vEZxRC
s/DqwOynbBIdF27HoBonV6w5Jve3CgUkAmu8cf4/YFyy+5Cpf44jiiNsaU/wqfLM
BEc4Q2A1x7TOxj6evJ84xqEjEM11mNZo17JHOFY8pSziC6G1VSNifxQdKDSrp3E0
dxgPC5/4DtjDIQkr08vSs6VEFeih/Cf63+HSvwIDAQABAoIBAAw8TMLViI2BuBrZ
B1MlZR/Kn3+ypRpqePqbYYcV7WLvxKaYv60IC5qR4HAvQhoDjyP1SIo6Mdo8a1l5
wRZ/0/hV+FqOPeFwS4pSGtVVd61bj6CNG5G1aXouqhTW7aDx2g4Vhz4TZiGhkVPC
q4I6KoNfW4DHQ4gBsvqlFv0yJQ77BSDZgiVSYPOUhzmy+cUDn3vJoBn4LPCrVeUl
vvyjmlsHKbpyM2ARZL0NgioQdSRLehXsJH7EZeW+Akn6MARvery7Ml3SWvYgQ9mK
lN1H+t387NoDwtyM1lgaWqqIBR+8I9t6d2fyB598Od/9gWinXBltp1nRGDmMQUik
GuxlLzECgYEA6eRrHY72Ke4hJfIog1Lq0qLwx1pPOm8LDxp1sS0wCQUmUoagjtTx
OV77fu5aiZJ5m+1vBhJJst5zCwpqMEooOkNPi/lvgEslBBFvODdVWaFLyP1p6gzA
BrnlFlFZwZHTIHTE0mh6pN/oqwr7QWv1HZsmI8Wzi3sAvVnUm5ltakUCgYEAy1XJ
HNz4rE4XzNUL0VQgPc63afpDRbJJHs8m0fD0Znnrf+lrnFFr+z0rLxWFOfRiOr9T
BTula40SdVm+RXYFN+KNburyoJWwAz/+WwdF1hsM8L2rYhGLzChVN145uc7QvHJg
G2hrARSwgaUIJlCoo3FQQZ6QEqUgPAaR4riU+zMCgYEA21Eps/zTDPxTLu7EWGgO
81aAqp4fPq7TUuU/yNSTf1HJ3oaI1YYNb/uFnj9IvEmSKMlaWvoZC1WV0JuCeSeA
Uym81Icfq9BKtGbYwID6UmJx2tTtVN+BzIzRqLy9ikoADCYSTS5VGncvB/vzICRo
IsvR1qdStY6wYd1zBDi5JXUCgYEAnBRTdeZgs9KWDlMS6THMNeVxgNXrwZoi6pVU
VR7CW88GaH9CbRFK8+V2OoQoad4fcLzf+0pXpgD5xD6JAUSgqM8shZGvgHimTThY
BIPGpZzKCBlvbq3NQ39KOmAHq4sHSz/4adFzIbdB7aJCaTbM2/jlBBm0ubsqzSi1
3vSU12UCgYEAx7b4BFHLVJL78ci6N6TtY3vwxpaXyAyvLdEiamAV+EYfQjmUkhZJ
AgVODtiUIuf5IE9w4XfqQubRdcoGaFaja9OzI1hNHpoGKmS+fvljGSUKaN5YAgZc
L/VUIOZZjn02aqF7Uh2GD5ZtaABe4QRfWzfo/9gOkdykomvSQ0VX3vw=
-----END RSA PRIVATE KEY-----
', '-----BEGIN CERTIFICATE-----
MIIDZzCCAk+gAwIBAgIIO2LETKMhcrEwDQYJKoZIhvcNAQELBQAwKDEmMCQGA1UE
AxMdUGViYmxlIEludGVybWVkaWF0ZSBDQSA1MTU0NzgwHhcNMjYxMTI4MTIzMTE4
WhcNMzExMTI4MTIzMTE3WjAdMRswGQYDVQQDExJpc3N1ZWQuZXhhbXBsZS5jb20w
ggEiMA0GCSqGSIb3DQEBAQUAA4IBDwAwggEKAoIBAQC5xoGGuCcWOKb/2o0Fzrf5
iD/PuzO1e66Y/YRbcgTwMo3RHEtnZOLbSu5adpxReFKfu0dnAOHroz2ITzLavL+B
boVnkIaKY7JXlvk0nN9DWmvOXdtxbsOZheMfci9kV9wgVYfXQeRybJd7YresQrT1
ga1O2tf7kMWKwz8Gx+7Ly8RnFEKz8OrA7KdsEh0XbsegGidXrDkm97cKBSQCa7xx
/j9gXLL7kKl/jiOKI2xpT/Cp8swERzhDYDXHtM7GPp68nzjGoSMQzXWY1mjXskc4
VjylLOILobVVI2J/FB0oNKuncTR3GA8Ln/gO2MMhCSvTy9KzpUQV6KH8J/rf4dK/
AgMBAAGjgZ8wgZwwDgYDVR0PAQH/BAQDAgWgMB0GA1UdJQQWMBQGCCsGAQUFBwMB
BggrBgEFBQcDAjAMBgNVHRMBAf8EAjAAMB0GA1UdDgQWBBTRCTtIctQ/EQCwu+jC
8su59uao1DAfBgNVHSMEGDAWgBSa1gyTKqnNfkq5NpLuM6W42SnkozAdBgNVHREE
FjAUghJpc3N1ZWQuZXhhbXBsZS5jb20wDQYJKoZIhvcNAQELBQADggEBAIW+1cjB
/efwAu2bM0PeM2ttDPulIPwUdASwD4VVd/CMMNSb53BY1t1BqB7Qw05m3tQrHT4F
X1duVyxXBx6FiqNMb2rpGvk90HMJ/y1wduwO8NJrhulIkMT/vSQ5hUfLyYSXnFaM
SYgOrJbLYhoOt6kRIWOWmBRZXdgaKVbqp+Nkr/Zzgmd6jx94R3taM/yKzFLwNzeA
PoqV/qqafF8o7Qsc+YEH7mj9EfNRRuf3Efz+Rd6oRXVqFCIu/f71g5AuQ+NA3SkD
OKsWP4twF16Y4dwdmcDjeu4ejSvSxdlOHCu43bl33JN0xGh3+vrWFomn36Tq6YHj
UhKmwJSK2Z5EVRo=
-----END CERTIFICATE-----
-----BEGIN CERTIFICATE-----
MIIDUDCCAjigAwIBAgIIBx5FNYw1cQQwDQYJKoZIhvcNAQELBQAwIDEeMBwGA1UE
AxMVUGViYmxlIFJvb3QgQ0EgNmYzNWM4MCAXDTI2MTEyODEyMzExNFoYDzIwNTYx
MTI4MTIzMTE0WjAoMSYwJAYDVQQDEx1QZWJibGUgSW50ZXJtZWRpYXRlIENBIDUx
NTQ3ODCCASIwDQYJKoZIhvcNAQEBBQADggEPADCCAQoCggEBAMm0cgY5dDLpleCX
cw/Acdl/+5xzq7OHlcZELmli06p6yU+OBOngw/VOiNRhViYMd5yxNhhdUDyvirUU
rKXmsKSwakMqwe1g0OVAR54/RgFJik2GF72zanaAAFry5ga6TglugjuktgPQTYb8
1OdIFVguIzim4zcNd1wOVhpd0T2hyJHM2HwwlYwKfvWtVXG5B17gXXR8kP73rBa9
i9dmv7thjqr4mNp0qtxYpynZFDHRiJQ9ipeF7rvm7G/IOA/oxQymHdzfnCGKGHvT
Z1xR8o6AxWpbItHbJmg3Kk50xVlUeG3Q5se3UrrpSghgaM59P0j8PGKw1BKOskRA
l1NyHyUCAwEAAaOBgzCBgDAOBgNVHQ8BAf8EBAMCAoQwHQYDVR0lBBYwFAYIKwYB
BQUHAwEGCCsGAQUFBwMCMA8GA1UdEwEB/wQFMAMBAf8wHQYDVR0OBBYEFJrWDJMq
qc1+Srk2ku4zpbjZKeSjMB8GA1UdIwQYMBaAFALES7A9MV7pkt5hz3WtIyVl/bvz
MA0GCSqGSIb3DQEBCwUAA4IBAQB16JwBnrVawfuLHe6rXczVbsafZOWBEbfk2i6/
fteDwvtIQK4AO0rcJeG5jXoIozlhZ+jecn79VxDfHd3kdEYg/gqZYLAcVjHxdd/w
pqaE2kX/lewui/AdqV54SkRap0Qhzq6bwDuKgWSB5UdHcA9WJt/MXLaY3OAY9PpV
A5O05NPbvil6nVI/VoBV3JYtO9xS3HBPKgKggVg2KfTb0VqN5nXF2CWza4dkBRuu
e7Vn20+sLKjd87edBrGEczExIyRH6K34WGHyx5DDEdp7rF0JpFKXLgxavKjqIgJE
97ETplvmGv7sBv9KiDtNLJnKpmpNeCrzGZN3rTsaaJtlj2TC
-----END CERTIFICATE-----
', '2026-11-28 12:31:18.200699+00', '2026-11-28 12:31:18+00', '2031-11-28 12:31:17+00', '3b62c44ca32172b1', 'c4f3f419d98ac648a80b6d0cf8a6483136aa3951bbc052d16ae539ee4a73acd8', 'Pebble Intermediate CA 515478', '2026-11-28 12:31:18.107009+00', '2026-11-28 12:31:18.201322+00', '', 'issued.example.com', '{}', true, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
ALTER TABLE public.certificates ENABLE TRIGGER ALL;
ALTER TABLE public.presenter_configs DISABLE TRIGGER ALL;
INSERT INTO public.presenter_configs (id, account_id, domain_id, kind, settings, secret, created_at, replaced_at) OVERRIDING SYSTEM VALUE VALUES (1, 1, 10, 'webhook', '{"url": "https://receiver.example:14001/dns", "kind": "webhook"}', NULL, '2026-11-28 12:31:17.889073+00', NULL);
ALTER TABLE public.presenter_configs ENABLE TRIGGER ALL;
ALTER TABLE public.orders DISABLE TRIGGER ALL;
INSERT INTO public.orders (id, public_id, domain_id, certificate_id, origin, state, revision, directory, acme_url, place_by, placed_at, deadline_at, seen_at, ended_at, cleaned_up_at, problem, created_at, updated_at, retry_of, presenter, presenter_config_id) OVERRIDING SYSTEM VALUE VALUES (1, '507d74925467a73873f642f601a4f9e7', 1, 1, 'challenge', 'issued', 10, 'https://ca.example:14000/dir', 'https://ca.example:14000/my-order/P05Ve46oCS_pFDUs0tDPcOcUH6-Q4KuZTPYiBEf7Yuc', '2026-11-28 12:31:25.331188+00', '2026-11-28 12:31:15.523647+00', '2026-11-28 13:31:15.523647+00', '2026-11-28 12:31:15.532629+00', '2026-11-28 12:31:15.642059+00', '2026-11-28 12:31:15.646877+00', NULL, '2026-11-28 12:31:15.331188+00', '2026-11-28 12:31:15.647894+00', NULL, 'manual', NULL);
INSERT INTO public.orders (id, public_id, domain_id, certificate_id, origin, state, revision, directory, acme_url, place_by, placed_at, deadline_at, seen_at, ended_at, cleaned_up_at, problem, created_at, updated_at, retry_of, presenter, presenter_config_id) OVERRIDING SYSTEM VALUE VALUES (2, '2c5ec4381d303a61c9a36ca6b9986170', 2, 2, 'challenge', 'failed', 4, 'https://ca.example:14000/dir', 'https://ca.example:14000/my-order/_NtxBa0fLJZGefC5YgWCNTaO5NsygvUHjMKZFRrd3r8', '2026-11-28 12:31:25.675883+00', '2026-11-28 12:31:15.713235+00', '2026-11-28 12:31:15.726432+00', NULL, '2026-11-28 12:31:15.935065+00', '2026-11-28 12:31:15.951105+00', '{"code": "record_not_seen", "detail": "the TXT record _acme-challenge.failed.example.com. did not show the expected value in time (another value: 58f304ca6449f7e2d57f0ebea0f83a4365f6fb039dd0ee5b5f696c449894f437); set it to U65PbhlDH3ndW3M6TlGc4lXwvccyCMqDSnyRjjjWzUA, then retry", "findings": [{"code": "wrong_value", "detail": "_acme-challenge.failed.example.com. shows 58f304ca6449f7e2d57f0ebea0f83a4365f6fb039dd0ee5b5f696c449894f437 and not U65PbhlDH3ndW3M6TlGc4lXwvccyCMqDSnyRjjjWzUA", "record": {"name": "_acme-challenge.failed.example.com.", "type": "TXT", "value": "U65PbhlDH3ndW3M6TlGc4lXwvccyCMqDSnyRjjjWzUA"}, "severity": "error"}]}', '2026-11-28 12:31:15.675883+00', '2026-11-28 12:31:15.951751+00', NULL, 'manual', NULL);
INSERT INTO public.orders (id, public_id, domain_id, certificate_id, origin, state, revision, directory, acme_url, place_by, placed_at, deadline_at, seen_at, ended_at, cleaned_up_at, problem, created_at, updated_at, retry_of, presenter, presenter_config_id) OVERRIDING SYSTEM VALUE VALUES (3, '7bd702f2549f4524ffb2508abec00e1e', 3, 3, 'challenge', 'failed', 2, NULL, NULL, '2026-11-28 12:31:25.988891+00', NULL, NULL, NULL, '2026-11-28 12:31:16.007491+00', '2026-11-28 12:31:16.010494+00', '{"acme": {"type": "urn:ietf:params:acme:error:rejectedIdentifier", "detail": "Order included an identifier for which issuance is forbidden by policy: \"blocked.example.com\"", "status": 400}, "code": "name_refused", "detail": "the certificate authority does not issue certificates for blocked.example.com"}', '2026-11-28 12:31:15.988891+00', '2026-11-28 12:31:16.011078+00', NULL, 'manual', NULL);
INSERT INTO public.orders (id, public_id, domain_id, certificate_id, origin, state, revision, directory, acme_url, place_by, placed_at, deadline_at, seen_at, ended_at, cleaned_up_at, problem, created_at, updated_at, retry_of, presenter, presenter_config_id) OVERRIDING SYSTEM VALUE VALUES (4, '7a849b0908c57f0728530993eecc48e2', 4, 4, 'order', 'issued', 10, 'https://ca.example:14000/dir', 'https://ca.example:14000/my-order/4FuhVdb86ejAm7MpSHYfgN-9Ym2qyaVaFPxWk5EjO5E', NULL, '2026-11-28 12:31:16.538889+00', '2026-11-28 13:31:16.538889+00', '2026-11-28 12:31:16.545886+00', '2026-11-28 12:31:16.575192+00', '2026-11-28 12:31:16.587921+00', NULL, '2026-11-28 12:31:16.048968+00', '2026-11-28 12:31:16.588616+00', NULL, 'test-dns', NULL);
INSERT INTO public.orders (id, public_id, domain_id, certificate_id, origin, state, revision, directory, acme_url, place_by, placed_at, deadline_at, seen_at, ended_at, cleaned_up_at, problem, created_at, updated_at, retry_of, presenter, presenter_config_id) OVERRIDING SYSTEM VALUE VALUES (5, 'e0fc285ed2e4eeea69c14e3f54870b31', 5, 5, 'order', 'issued', 10, 'https://ca.example:14000/dir', 'https://ca.example:14000/my-order/VEDBbPlJ8qX27YElgk6_moNrjGwifhickdtSdbWpgx8', NULL, '2026-11-28 12:31:17.12647+00', '2026-11-28 13:31:17.12647+00', '2026-11-28 12:31:17.133236+00', '2026-11-28 12:31:17.163371+00', '2026-11-28 12:31:17.173631+00', NULL, '2026-11-28 12:31:16.613884+00', '2026-11-28 12:31:17.174217+00', NULL, 'test-dns', NULL);
INSERT INTO public.orders (id, public_id, domain_id, certificate_id, origin, state, revision, directory, acme_url, place_by, placed_at, deadline_at, seen_at, ended_at, cleaned_up_at, problem, created_at, updated_at, retry_of, presenter, presenter_config_id) OVERRIDING SYSTEM VALUE VALUES (7, 'e5724cd60d2fe60995df7ba2ecef927e', 6, 7, 'challenge', 'presented', 2, 'https://ca.example:14000/dir', 'https://ca.example:14000/my-order/FP-X3lhAwauz0HrKeaZYcALeHLe4B4Ae9xyhkeCCV5Q', '2026-11-28 12:31:27.763027+00', '2026-11-28 12:31:17.775831+00', '2026-11-28 13:31:17.775831+00', NULL, NULL, NULL, NULL, '2026-11-28 12:31:17.763027+00', '2026-11-28 12:31:17.781096+00', NULL, 'manual', NULL);
INSERT INTO public.orders (id, public_id, domain_id, certificate_id, origin, state, revision, directory, acme_url, place_by, placed_at, deadline_at, seen_at, ended_at, cleaned_up_at, problem, created_at, updated_at, retry_of, presenter, presenter_config_id) OVERRIDING SYSTEM VALUE VALUES (6, 'a25938362c2d0096eb2cd4e9c74985ab', 4, 6, 'renewal', 'issued', 10, 'https://ca.example:14000/dir', 'https://ca.example:14000/my-order/CQX08ZckaZ7HVVqrDTwusmjjqkHBwyJa5etXx6xIVQo', NULL, '2026-11-28 12:31:17.696849+00', '2026-11-28 13:31:17.696849+00', '2026-11-28 12:31:17.702707+00', '2026-11-28 12:31:17.725581+00', '2026-11-28 12:31:17.734399+00', NULL, '2026-11-28 12:31:17.209967+00', '2026-11-28 12:31:17.734848+00', NULL, 'test-dns', NULL);
INSERT INTO public.orders (id, public_id, domain_id, certificate_id, origin, state, revision, directory, acme_url, place_by, placed_at, deadline_at, seen_at, ended_at, cleaned_up_at, problem, created_at, updated_at, retry_of, presenter, presenter_config_id) OVERRIDING SYSTEM VALUE VALUES (8, '4cf56d369bb64e401e176298a0313893', 7, 8, 'challenge', 'presented', 2, 'https://ca.example:14000/dir', 'https://ca.example:14000/my-order/E3BHBB3pw4zz0CJgR-wdg8U8NN6-lSSqveKRgzAN1yQ', '2026-11-28 12:31:27.795658+00', '2026-11-28 12:31:17.808595+00', '2026-11-28 13:31:17.808595+00', NULL, NULL, NULL, NULL, '2026-11-28 12:31:17.795658+00', '2026-11-28 12:31:17.812256+00', NULL, 'manual', NULL);
INSERT INTO public.orders (id, public_id, domain_id, certificate_id, origin, state, revision, directory, acme_url, place_by, placed_at, deadline_at, seen_at, ended_at, cleaned_up_at, problem, created_at, updated_at, retry_of, presenter, presenter_config_id) OVERRIDING SYSTEM VALUE VALUES (10, '8fecfbd77e49dd42461a5ff602b9458d', 9, 10, 'order', 'placed', 1, 'https://ca.example:14000/dir', 'https://ca.example:14000/my-order/bR8y7cAd53Mqpji_0uECUKrmigWqJYMWUOjurS_G89M', NULL, '2026-11-28 12:31:17.911914+00', '2026-11-28 13:31:17.911914+00', NULL, NULL, NULL, NULL, '2026-11-28 12:31:17.852409+00', '2026-11-28 12:31:17.912476+00', NULL, 'test-dns', NULL);
INSERT INTO public.orders (id, public_id, domain_id, certificate_id, origin, state, revision, directory, acme_url, place_by, placed_at, deadline_at, seen_at, ended_at, cleaned_up_at, problem, created_at, updated_at, retry_of, presenter, presenter_config_id) OVERRIDING SYSTEM VALUE VALUES (12, '128760f0d6536f32ce4e6f45515880bb', 11, 12, 'challenge', 'responded', 5, 'https://ca.example:14000/dir', 'https://ca.example:14000/my-order/3Td-QQToDgO8_XAJVywHa_79s6QYHquVrae-C4mSw5s', '2026-11-28 12:31:27.938495+00', '2026-11-28 12:31:17.950235+00', '2026-11-28 13:31:17.950235+00', '2026-11-28 12:31:17.956535+00', NULL, NULL, NULL, '2026-11-28 12:31:17.938495+00', '2026-11-28 12:31:17.96906+00', NULL, 'delegated', NULL);
INSERT INTO public.orders (id, public_id, domain_id, certificate_id, origin, state, revision, directory, acme_url, place_by, placed_at, deadline_at, seen_at, ended_at, cleaned_up_at, problem, created_at, updated_at, retry_of, presenter, presenter_config_id) OVERRIDING SYSTEM VALUE VALUES (9, '145a514b96d1a73a55b3267252972267', 8, 9, 'challenge', 'cancelled', 4, 'https://ca.example:14000/dir', 'https://ca.example:14000/my-order/yfxFgxr1pyHxUjdo482j6M3ZGucyf1n51x64QD_CRVk', '2026-11-28 12:31:27.825459+00', '2026-11-28 12:31:17.836299+00', '2026-11-28 13:31:17.836299+00', NULL, '2026-11-28 12:31:18.293885+00', NULL, '{"code": "domain_deleted", "detail": "the domain was deleted"}', '2026-11-28 12:31:17.825459+00', '2026-11-28 12:31:18.293885+00', NULL, 'manual', NULL);
INSERT INTO public.orders (id, public_id, domain_id, certificate_id, origin, state, revision, directory, acme_url, place_by, placed_at, deadline_at, seen_at, ended_at, cleaned_up_at, problem, created_at, updated_at, retry_of, presenter, presenter_config_id) OVERRIDING SYSTEM VALUE VALUES (11, '2ef632c0cc4ab9bea0fceafc03d18d25', 10, 11, 'challenge', 'confirmed', 4, 'https://ca.example:14000/dir', 'https://ca.example:14000/my-order/C0pN9CJPsfOM8hPCbWpi2WOzde2y2MCXHS3i2i2UtoE', '2026-11-28 12:31:27.896337+00', '2026-11-28 12:31:17.917718+00', '2026-11-28 13:31:17.917718+00', '2026-11-28 12:31:17.974789+00', NULL, NULL, NULL, '2026-11-28 12:31:17.896337+00', '2026-11-28 12:31:17.981936+00', NULL, 'webhook', 1);
INSERT INTO public.orders (id, public_id, domain_id, certificate_id, origin, state, revision, directory, acme_url, place_by, placed_at, deadline_at, seen_at, ended_at, cleaned_up_at, problem, created_at, updated_at, retry_of, presenter, presenter_config_id) OVERRIDING SYSTEM VALUE VALUES (13, 'f72770fa2de3747b80c425e069f356ff', 12, 13, 'order', 'authorized', 6, 'https://ca.example:14000/dir', 'https://ca.example:14000/my-order/xCvojPmpYPb1oFrLUxSRaw8L_NB861g3hgoaV18WBmY', NULL, '2026-11-28 12:31:18.02586+00', '2026-11-28 13:31:18.02586+00', '2026-11-28 12:31:18.040217+00', NULL, NULL, NULL, '2026-11-28 12:31:17.97243+00', '2026-11-28 12:31:18.07449+00', NULL, 'test-dns', NULL);
INSERT INTO public.orders (id, public_id, domain_id, certificate_id, origin, state, revision, directory, acme_url, place_by, placed_at, deadline_at, seen_at, ended_at, cleaned_up_at, problem, created_at, updated_at, retry_of, presenter, presenter_config_id) OVERRIDING SYSTEM VALUE VALUES (14, '46bb1789a1c57bd896ee0de7f2a5a529', 13, 14, 'challenge', 'prepared', 7, 'https://ca.example:14000/dir', 'https://ca.example:14000/my-order/2qj2DoVjFbrbvXbJ9S-8xk7QuaHIY1FNyTVvAbH83yQ', '2026-11-28 12:31:27.994382+00', '2026-11-28 12:31:18.016671+00', '2026-11-28 13:31:18.016671+00', '2026-11-28 12:31:18.029102+00', NULL, NULL, NULL, '2026-11-28 12:31:17.994382+00', '2026-11-28 12:31:18.100408+00', NULL, 'manual', NULL);
INSERT INTO public.orders (id, public_id, domain_id, certificate_id, origin, state, revision, directory, acme_url, place_by, placed_at, deadline_at, seen_at, ended_at, cleaned_up_at, problem, created_at, updated_at, retry_of, presenter, presenter_config_id) OVERRIDING SYSTEM VALUE VALUES (15, 'dd586b495ff61af18cc627117d116ae8', 14, 15, 'challenge', 'finalizing', 8, 'https://ca.example:14000/dir', 'https://ca.example:14000/my-order/0_9rqXM1OLsDgNLReb0yi9j9sGLeMsEmdGd6v093d04', '2026-11-28 12:31:28.048122+00', '2026-11-28 12:31:18.072422+00', '2026-11-28 13:31:18.072422+00', '2026-11-28 12:31:18.08018+00', NULL, NULL, NULL, '2026-11-28 12:31:18.048122+00', '2026-11-28 12:31:18.171136+00', NULL, 'manual', NULL);
INSERT INTO public.orders (id, public_id, domain_id, certificate_id, origin, state, revision, directory, acme_url, place_by, placed_at, deadline_at, seen_at, ended_at, cleaned_up_at, problem, created_at, updated_at, retry_of, presenter, presenter_config_id) OVERRIDING SYSTEM VALUE VALUES (16, 'e7e5b85c9413eb7294cf6d8337f78512', 15, 16, 'challenge', 'issued', 9, 'https://ca.example:14000/dir', 'https://ca.example:14000/my-order/OtMtxVtBNjT-xzaAwnrjhNTxcauKjb4KEKv6KGNHFxI', '2026-11-28 12:31:28.107009+00', '2026-11-28 12:31:18.12514+00', '2026-11-28 13:31:18.12514+00', '2026-11-28 12:31:18.128853+00', '2026-11-28 12:31:18.200699+00', NULL, NULL, '2026-11-28 12:31:18.107009+00', '2026-11-28 12:31:18.201322+00', NULL, 'manual', NULL);
INSERT INTO public.orders (id, public_id, domain_id, certificate_id, origin, state, revision, directory, acme_url, place_by, placed_at, deadline_at, seen_at, ended_at, cleaned_up_at, problem, created_at, updated_at, retry_of, presenter, presenter_config_id) OVERRIDING SYSTEM VALUE VALUES (17, '1f687c6965875dd15d6ca297d1fe60e4', 16, 17, 'order', 'accepted', 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-28 12:31:18.308563+00', '2026-11-28 12:31:18.308563+00', NULL, 'test-dns', NULL);
INSERT INTO public.orders (id, public_id, domain_id, certificate_id, origin, state, revision, directory, acme_url, place_by, placed_at, deadline_at, seen_at, ended_at, cleaned_up_at, problem, created_at, updated_at, retry_of, presenter, presenter_config_id) OVERRIDING SYSTEM VALUE VALUES (18, 'd88295f418676825e6abbb61a0f470dd', 5, 18, 'renewal', 'accepted', 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-28 12:31:18.3173+00', '2026-11-28 12:31:18.3173+00', NULL, 'test-dns', NULL);
ALTER TABLE public.orders ENABLE TRIGGER ALL;
ALTER TABLE public.authorizations DISABLE TRIGGER ALL;
INSERT INTO public.authorizations (order_id, domain_id, identifier, wildcard, url, challenge_url, token, txt_value, proved_at) VALUES (1, 1, 'active.example.com', false, 'https://ca.example:14000/authZ/48nrjq9b6ytKUflh1NPPbwZlkLRzNJ3P02cxTYrRwB4', 'https://ca.example:14000/chalZ/X4aqzOxt6lLgeKeu9v1D8dxf_CUrUiSLki71lgsQI5M', 'vrVh9HKcd-408JLHzQoxxQj_LqOrWINJualAQny2uxg', 'R_j_vE-jxOss_Vm99jDo_H8_7WytIILXqJ-wlu_tdL4', '2026-11-28 12:31:15.558149+00');
INSERT INTO public.authorizations (order_id, domain_id, identifier, wildcard, url, challenge_url, token, txt_value, proved_at) VALUES (2, 2, 'failed.example.com', false, 'https://ca.example:14000/authZ/pepgbxtJ9O4obDxmngFz-jrYSXX1mK6K6AkgeNIj12c', 'https://ca.example:14000/chalZ/fPMf-lHLJkUkCyPsMnc0_e7YaWeG3QrqqmRzL4515Gw', 'K1_bQw60dSnSPKqsy-BhZnSiePFJkCqt5welUXcNiZM', 'U65PbhlDH3ndW3M6TlGc4lXwvccyCMqDSnyRjjjWzUA', NULL);
INSERT INTO public.authorizations (order_id, domain_id, identifier, wildcard, url, challenge_url, token, txt_value, proved_at) VALUES (4, 4, 'renewed.example.com', false, 'https://ca.example:14000/authZ/EtZ9OzQm9zkVGp0NdtppE_zPijAQxH46tqCiKlcKUxI', 'https://ca.example:14000/chalZ/F0nnV1jBb8auGTeklq9ctGhjljgwxjkSjUyamRKivOc', 'rKAm2vC2BV7ijm6u5vRq8_-SVdYVHwcXNFrDh5nw5fU', 'XFUc00mdwtdFZZG5nfNmksCImnoEK7lw92sD6Y0fwWw', '2026-11-28 12:31:16.558523+00');
INSERT INTO public.authorizations (order_id, domain_id, identifier, wildcard, url, challenge_url, token, txt_value, proved_at) VALUES (5, 5, 'renewing.example.com', false, 'https://ca.example:14000/authZ/w_DAuWbL-uGdLrkHSvdLwsWZFVF4NZwGGdoLtAmkfkA', 'https://ca.example:14000/chalZ/I6IQU_WZErkUUF6cOPC-PKyF0lFhcqeZEsGMuicqXH0', 'TY8LP-FEwZStbVWCHYhuKIlz2Z6pbH9x819d50W2PBc', 'EcpMIDh3voemiWqpdERhzEeSXqjBzsCl7LUxI4MIeKM', '2026-11-28 12:31:17.146119+00');
INSERT INTO public.authorizations (order_id, domain_id, identifier, wildcard, url, challenge_url, token, txt_value, proved_at) VALUES (6, 4, 'renewed.example.com', false, 'https://ca.example:14000/authZ/plQryXG9AO-d2jMJgUrJsvp07jvmdFaPI66U-UweCcg', 'https://ca.example:14000/chalZ/6WYICR4McEjBWtWxQwNyLGF1ULKmLLe34ixehisq_DU', 'FbqNp_oc7Pw46Cdv6HL5n_T4ZRjM1I3paTypWgbXE9w', 'Mo3Oe1XREHKM-qrlwQEFHYe4b5WNw4q0noXsNUON4i0', '2026-11-28 12:31:17.712187+00');
INSERT INTO public.authorizations (order_id, domain_id, identifier, wildcard, url, challenge_url, token, txt_value, proved_at) VALUES (7, 6, 'presented.example.com', false, 'https://ca.example:14000/authZ/n4wALJ_7mBBMdRoZe-KRBovAFcPRwLR8-wA6E-bkP9I', 'https://ca.example:14000/chalZ/6NnUJzyPnRff4T6cX88J2NjPhYV4jHnbrITmD43qDhs', '44KmIhS-V-xwxodz8p7DeAV1iiJYzQpXbwRHRudYEfc', 'u4RFmFDK0CHaqaQzeYjl1ExXZJqkwgjQ-hMOLV4urZE', NULL);
INSERT INTO public.authorizations (order_id, domain_id, identifier, wildcard, url, challenge_url, token, txt_value, proved_at) VALUES (8, 7, 'parked.example.com', false, 'https://ca.example:14000/authZ/cD_av_Ok9n6OOwII8yCmmO7_H8yzoaVV7je_dN7DuhQ', 'https://ca.example:14000/chalZ/Kw0sN1Gxu77oAFCZysKu84MzVFxvZdpxj-K1CJpdN4g', 'Ka06ErRREvJLDdsQnfmRZzqTLdZ5dxEyqmDpIAZgyQo', 'Hjb785gr8kJrAPcSBmqVSU8576bulEt4Hi80q0uQCiY', NULL);
INSERT INTO public.authorizations (order_id, domain_id, identifier, wildcard, url, challenge_url, token, txt_value, proved_at) VALUES (9, 8, 'cancelled.example.com', false, 'https://ca.example:14000/authZ/hNreg7hE2f7lSEP3kJUaio6vClNjiNlLX8R13qgRe8o', 'https://ca.example:14000/chalZ/dY1ozhWIFQfpSS8k3nNx9DVJ66TWpvP0zDZBNWE3siY', 'lpaoxrxeoYq7r5bDFYd4g-TWUdzgjpKTD-LJjhpSx1I', 'S7YicJKyKE5JbyUSvdid_j_l4-mT3SoYNvLTjdk1Q3E', NULL);
INSERT INTO public.authorizations (order_id, domain_id, identifier, wildcard, url, challenge_url, token, txt_value, proved_at) VALUES (10, 9, 'placed.example.com', true, 'https://ca.example:14000/authZ/HYrbHNcDkzNeonXNlKSkNJGEpx2_a12DXpFv9kZQ66k', 'https://ca.example:14000/chalZ/m58Sx5dWp185_VxLwm4Sts4Npy6Y37znofNzVVgnZFE', 'iVD1CVIhD5sCM2v8QVSUEjJFQIsClmuMFznrWi8JN8c', 'll3mcwzYJUKo8YRsAWzaNN6ABAk6php88-_BPmENuhc', NULL);
INSERT INTO public.authorizations (order_id, domain_id, identifier, wildcard, url, challenge_url, token, txt_value, proved_at) VALUES (11, 10, 'confirmed.example.com', false, 'https://ca.example:14000/authZ/q0ITPkdoIxG3wwwNZDYd6QhB-XykR_ykEIfImAJPQD0', 'https://ca.example:14000/chalZ/rSa6bx1i3R5KB1sZpi9KdpWvg30lwIEUDE0cvO0feMM', '17t5tLYojBAZMaSnIitYgUQOztyi30-nF0Q_gHzeHgw', 'uC13ZpXFuLi3_uCctbCE8H4tKUkFz7xTU33zOkJr2l0', NULL);
INSERT INTO public.authorizations (order_id, domain_id, identifier, wildcard, url, challenge_url, token, txt_value, proved_at) VALUES (12, 11, 'responded.example.com', false, 'https://ca.example:14000/authZ/zRCS7IDoJb7G_nu2yzRiZmQvLwPSJ7znlVmnlJtcU08', 'https://ca.example:14000/chalZ/_uGfzQxHOq3-pb1WMYTJE_deZRFSc0nveIMhQOFNYH4', '6weDId4jgM2K80Z-2X4qK1zSbK60OLNrvc2jxqk5RZ4', 'D3o0XiD7HL6haPgr_PHtd1KLuVribVc_aaJXWErTY_E', NULL);
INSERT INTO public.authorizations (order_id, domain_id, identifier, wildcard, url, challenge_url, token, txt_value, proved_at) VALUES (14, 13, 'prepared.example.com', false, 'https://ca.example:14000/authZ/DsmCOEi4qAVc8sSe-VwbJop427TjBA0R-gTl9iJ5NYw', 'https://ca.example:14000/chalZ/uNImSWnF82crMPHJ8qOWV_TIzXKAu_b2-t9092kLcxk', '1oDvEEN2taQ9dB5_4-8szCpY3M9Y8PadE6pGD1JY8IA', 'eGo1erVltOkbe3BtjGDXQpkbTzI_cwhAG1yomr_oTg0', '2026-11-28 12:31:18.060284+00');
INSERT INTO public.authorizations (order_id, domain_id, identifier, wildcard, url, challenge_url, token, txt_value, proved_at) VALUES (13, 12, 'authorized.example.com', false, 'https://ca.example:14000/authZ/TCtdWRTb-wh6-qW9-Ak7ErqPuKEr2Mw6eUo7335njX8', 'https://ca.example:14000/chalZ/HXWvUHokkCdxC7UGKuyeTRBPsibZEuRq0BpXoDzXF_I', '5tPqpHvnUI5cvxbHONRW31ye9youPr8v3u3zNfbqydE', 'j2UzuV5G-Uv9T0EIARsmM_euI03nz02GQY_7BHOGCBw', '2026-11-28 12:31:18.074015+00');
INSERT INTO public.authorizations (order_id, domain_id, identifier, wildcard, url, challenge_url, token, txt_value, proved_at) VALUES (13, 12, 'www.authorized.example.com', false, 'https://ca.example:14000/authZ/5a7ZG_Q6jZ_G6hR_oOsvStET0iUaz037Qsw9WhAOFgE', 'https://ca.example:14000/chalZ/iOua4FjwU-AsYMwnkonoLrZbARifxQLOYcmKonQvEsg', 'YzB-A3r0yM2FHDiwXYHFv95FuGRn4xlpOvSj3iACO78', 'UxlWYLCf9xjLkXev95LINbb5UGJPgWMR-HSMu_wOeqo', '2026-11-28 12:31:18.074015+00');
INSERT INTO public.authorizations (order_id, domain_id, identifier, wildcard, url, challenge_url, token, txt_value, proved_at) VALUES (15, 14, 'finalizing.example.com', false, 'https://ca.example:14000/authZ/TLzS8FEv8N_Mr8H_Sne8udaKgGA5-LoI9xMjHkMv3Zk', 'https://ca.example:14000/chalZ/1-ymB9IQjm7L9IklF3K0dSoeP4jeD-hFEf9dkSydBkU', '_ucOVavGtjk-SqF3I3Kpc3I-wgfGhuw-v8isH2SLnXs', 'RqlpIVsx86OcEJlFci2GO9hIQQqJsSrk6Dxit2BudxQ', '2026-11-28 12:31:18.104467+00');
INSERT INTO public.authorizations (order_id, domain_id, identifier, wildcard, url, challenge_url, token, txt_value, proved_at) VALUES (16, 15, 'issued.example.com', false, 'https://ca.example:14000/authZ/Q5tCN-ZO1mxHFK1wJgEs7zQCXIvKNkWrKyjK0jAwEQw', 'https://ca.example:14000/chalZ/NdTHzi_Ou28uMijaB4s_iRnpjD9SxNv4_KocXpLpFgM', 'xjDC8jR4ezwNtPUXy9ApDfXWVK02PeRrogqxi_gK_EE', 'SUs1Tfu1CZdO9BaE4qyHYlXFguedN9Dz_trnD9uuEFc', '2026-11-28 12:31:18.146625+00');
ALTER TABLE public.authorizations ENABLE TRIGGER ALL;
ALTER TABLE public.events DISABLE TRIGGER ALL;
INSERT INTO public.events (id, request_identifier, account_id, name, payload, created_at) OVERRIDING SYSTEM VALUE VALUES (1, 'd0840296-e492-4aab-bb88-44410f57bc55', 2, 'webhook.create', '{"data": {"webhook": {"id": 1, "url": "https://receiver.example:14001/hook", "suppressed_at": null}}, "name": "webhook.create", "actor": {"id": "2", "entity": "account", "pretty": "Shop Inc"}, "account": {"id": 2, "display": "Shop Inc", "identifier": "Shop Inc"}, "api_version": "v2", "request_identifier": "d0840296-e492-4aab-bb88-44410f57bc55"}', '2026-11-28 12:31:16.022652+00');
INSERT INTO public.events (id, request_identifier, account_id, name, payload, created_at) OVERRIDING SYSTEM VALUE VALUES (2, 'b616f63b-1453-4ced-93fe-ae7971a29a4f', 2, 'domain.create', '{"data": {"domain": {"id": 4, "name": "renewed.example.com", "state": "hosted", "trustee": false, "account_id": 2, "auto_renew": false, "created_at": "2026-11-28T12:31:16Z", "expires_at": null, "expires_on": null, "updated_at": "2026-11-28T12:31:16Z", "unicode_name": "renewed.example.com", "private_whois": false, "registrant_id": null}}, "name": "domain.create", "actor": {"id": "2", "entity": "account", "pretty": "Shop Inc"}, "account": {"id": 2, "display": "Shop Inc", "identifier": "Shop Inc"}, "api_version": "v2", "request_identifier": "b616f63b-1453-4ced-93fe-ae7971a29a4f"}', '2026-11-28 12:31:16.032002+00');
INSERT INTO public.events (id, request_identifier, account_id, name, payload, created_at) OVERRIDING SYSTEM VALUE VALUES (3, 'c2c5e4ce-5499-4f6e-aa9a-ed803f18373c', 2, 'certificate.issue', '{"data": {"certificate": {"id": 4, "csr": "-----BEGIN CERTIFICATE REQUEST-----\nMIHwMIGWAgEAMAAwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASJ+rHJGNsqUjuh\n/gy3x+PAVQbuCdJwbJXwXLsHsD3RxIYqTQ4urnH0VoiKYFVWVSKMKB4CuKAKrHdP\nm1xs6bIWoDQwMgYJKoZIhvcNAQkOMSUwIzAhBgNVHREBAf8EFzAVghNyZW5ld2Vk\nLmV4YW1wbGUuY29tMAoGCCqGSM49BAMCA0kAMEYCIQDqsDfdkr3zYXAx2xOynE0W\nf6o+hlUAyYTw54OhcWoOvgIhAMhO0/xaqkMbC8MKhdb+yHkSsQusW4mr7TjOPcrt\nm6lt\n-----END CERTIFICATE REQUEST-----\n", "name": "", "state": "issued", "years": 1, "domain_id": 4, "auto_renew": true, "contact_id": 2, "created_at": "2026-11-28T12:31:16Z", "expires_at": "2031-11-28T12:31:15Z", "expires_on": "2031-11-28", "updated_at": "2026-11-28T12:31:16Z", "common_name": "renewed.example.com", "alternate_names": [], "authority_identifier": "letsencrypt"}}, "name": "certificate.issue", "actor": {"id": "system", "entity": "dnsimple", "pretty": "Countersign"}, "account": {"id": 2, "display": "Shop Inc", "identifier": "Shop Inc"}, "api_version": "v2", "request_identifier": "c2c5e4ce-5499-4f6e-aa9a-ed803f18373c"}', '2026-11-28 12:31:16.575908+00');
INSERT INTO public.events (id, request_identifier, account_id, name, payload, created_at) OVERRIDING SYSTEM VALUE VALUES (4, '995a5cc5-e9da-42c1-9f5e-a7d46da65e97', 2, 'domain.create', '{"data": {"domain": {"id": 5, "name": "renewing.example.com", "state": "hosted", "trustee": false, "account_id": 2, "auto_renew": false, "created_at": "2026-11-28T12:31:16Z", "expires_at": null, "expires_on": null, "updated_at": "2026-11-28T12:31:16Z", "unicode_name": "renewing.example.com", "private_whois": false, "registrant_id": null}}, "name": "domain.create", "actor": {"id": "2", "entity": "account", "pretty": "Shop Inc"}, "account": {"id": 2, "display": "Shop Inc", "identifier": "Shop Inc"}, "api_version": "v2", "request_identifier": "995a5cc5-e9da-42c1-9f5e-a7d46da65e97"}', '2026-11-28 12:31:16.594861+00');
INSERT INTO public.events (id, request_identifier, account_id, name, payload, created_at) OVERRIDING SYSTEM VALUE VALUES (5, '4cb526a8-9f8c-4413-95a4-e40f7bad64b0', 2, 'certificate.issue', '{"data": {"certificate": {"id": 5, "csr": "-----BEGIN CERTIFICATE REQUEST-----\nMIHwMIGXAgEAMAAwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAATd4D+lZNJbw73k\nWQ8TkEcfvYZlM/zl5Ebbvo6R9rasV6cTtuU7p0KARnePstFV9kv9kZ/b4DdK8Bwt\nYCvU640koDUwMwYJKoZIhvcNAQkOMSYwJDAiBgNVHREBAf8EGDAWghRyZW5ld2lu\nZy5leGFtcGxlLmNvbTAKBggqhkjOPQQDAgNIADBFAiAvjZ/5fd6EIytWnfuPtTcC\nHmPxzpMrLz3Rd0vFGR2ZIgIhAJNWlB3eOyQzsyfVFatDJXfVLCV8LPn7mwyWZAxp\nJPaF\n-----END CERTIFICATE REQUEST-----\n", "name": "", "state": "issued", "years": 1, "domain_id": 5, "auto_renew": true, "contact_id": 2, "created_at": "2026-11-28T12:31:16Z", "expires_at": "2031-11-28T12:31:16Z", "expires_on": "2031-11-28", "updated_at": "2026-11-28T12:31:17Z", "common_name": "renewing.example.com", "alternate_names": [], "authority_identifier": "letsencrypt"}}, "name": "certificate.issue", "actor": {"id": "system", "entity": "dnsimple", "pretty": "Countersign"}, "account": {"id": 2, "display": "Shop Inc", "identifier": "Shop Inc"}, "api_version": "v2", "request_identifier": "4cb526a8-9f8c-4413-95a4-e40f7bad64b0"}', '2026-11-28 12:31:17.163959+00');
INSERT INTO public.events (id, request_identifier, account_id, name, payload, created_at) OVERRIDING SYSTEM VALUE VALUES (6, '05830aeb-7cbc-4d6e-8c78-0fe1f9838a44', 2, 'certificate.issue', '{"data": {"certificate": {"id": 6, "csr": "-----BEGIN CERTIFICATE REQUEST-----\nMIHvMIGWAgEAMAAwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARwbWjRsf10eO1P\n3nclubonHCiDqhs+X6l4f2+c/CiFIM2SlWTYZPBlAUh2yK1TUv3MDvc0pI/Cg4Yl\niLkOSsZGoDQwMgYJKoZIhvcNAQkOMSUwIzAhBgNVHREBAf8EFzAVghNyZW5ld2Vk\nLmV4YW1wbGUuY29tMAoGCCqGSM49BAMCA0gAMEUCIQDy/shVYwKd8moLkZNcoHSS\nLScBpwGdLZGMA+bfmeHJIgIgSgeyty/l25vqKZfCqvXMaDcpai3O/3yHV6j+ry8C\nups=\n-----END CERTIFICATE REQUEST-----\n", "name": "", "state": "issued", "years": 1, "domain_id": 4, "auto_renew": true, "contact_id": 2, "created_at": "2026-11-28T12:31:17Z", "expires_at": "2031-11-28T12:31:16Z", "expires_on": "2031-11-28", "updated_at": "2026-11-28T12:31:17Z", "common_name": "renewed.example.com", "alternate_names": [], "authority_identifier": "letsencrypt"}}, "name": "certificate.issue", "actor": {"id": "system", "entity": "dnsimple", "pretty": "Countersign"}, "account": {"id": 2, "display": "Shop Inc", "identifier": "Shop Inc"}, "api_version": "v2", "request_identifier": "05830aeb-7cbc-4d6e-8c78-0fe1f9838a44"}', '2026-11-28 12:31:17.726037+00');
INSERT INTO public.events (id, request_identifier, account_id, name, payload, created_at) OVERRIDING SYSTEM VALUE VALUES (7, 'c8f0eab7-3bc2-4a84-a26c-c1c47f940cb7', 2, 'domain.create', '{"data": {"domain": {"id": 9, "name": "placed.example.com", "state": "hosted", "trustee": false, "account_id": 2, "auto_renew": false, "created_at": "2026-11-28T12:31:17Z", "expires_at": null, "expires_on": null, "updated_at": "2026-11-28T12:31:17Z", "unicode_name": "placed.example.com", "private_whois": false, "registrant_id": null}}, "name": "domain.create", "actor": {"id": "2", "entity": "account", "pretty": "Shop Inc"}, "account": {"id": 2, "display": "Shop Inc", "identifier": "Shop Inc"}, "api_version": "v2", "request_identifier": "c8f0eab7-3bc2-4a84-a26c-c1c47f940cb7"}', '2026-11-28 12:31:17.8449+00');
INSERT INTO public.events (id, request_identifier, account_id, name, payload, created_at) OVERRIDING SYSTEM VALUE VALUES (8, 'dcbf2857-40c6-4230-8dc1-671d81e29103', 2, 'domain.create', '{"data": {"domain": {"id": 12, "name": "authorized.example.com", "state": "hosted", "trustee": false, "account_id": 2, "auto_renew": false, "created_at": "2026-11-28T12:31:17Z", "expires_at": null, "expires_on": null, "updated_at": "2026-11-28T12:31:17Z", "unicode_name": "authorized.example.com", "private_whois": false, "registrant_id": null}}, "name": "domain.create", "actor": {"id": "2", "entity": "account", "pretty": "Shop Inc"}, "account": {"id": 2, "display": "Shop Inc", "identifier": "Shop Inc"}, "api_version": "v2", "request_identifier": "dcbf2857-40c6-4230-8dc1-671d81e29103"}', '2026-11-28 12:31:17.957804+00');
INSERT INTO public.events (id, request_identifier, account_id, name, payload, created_at) OVERRIDING SYSTEM VALUE VALUES (9, '53cd4a94-ee20-45f5-aa1c-d754d693cac8', 2, 'domain.create', '{"data": {"domain": {"id": 16, "name": "accepted.example.com", "state": "hosted", "trustee": false, "account_id": 2, "auto_renew": false, "created_at": "2026-11-28T12:31:18Z", "expires_at": null, "expires_on": null, "updated_at": "2026-11-28T12:31:18Z", "unicode_name": "accepted.example.com", "private_whois": false, "registrant_id": null}}, "name": "domain.create", "actor": {"id": "2", "entity": "account", "pretty": "Shop Inc"}, "account": {"id": 2, "display": "Shop Inc", "identifier": "Shop Inc"}, "api_version": "v2", "request_identifier": "53cd4a94-ee20-45f5-aa1c-d754d693cac8"}', '2026-11-28 12:31:18.301965+00');
ALTER TABLE public.events ENABLE TRIGGER ALL;
ALTER TABLE public.webhooks DISABLE TRIGGER ALL;
INSERT INTO public.webhooks (id, account_id, url, secret, consecutive_failures, suppressed_at, created_at, deleted_at) OVERRIDING SYSTEM VALUE VALUES (1, 2, 'https://receiver.example:14001/hook', 'whsec_QUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJD', 8, NULL, '2026-11-28 12:31:16.022652+00', NULL);
ALTER TABLE public.webhooks ENABLE TRIGGER ALL;
ALTER TABLE public.deliveries DISABLE TRIGGER ALL;
INSERT INTO public.deliveries (id, event_id, webhook_id, attempts, last_attempt_at, last_status, last_error, delivered_at, failed_at) OVERRIDING SYSTEM VALUE VALUES (2, 2, 1, 1, '2026-11-28 12:31:16.573554+00', 500, 'answered otherwise than 200', NULL, NULL);
INSERT INTO public.deliveries (id, event_id, webhook_id, attempts, last_attempt_at, last_status, last_error, delivered_at, failed_at) OVERRIDING SYSTEM VALUE VALUES (1, 1, 1, 1, '2026-11-28 12:31:16.580884+00', 500, 'answered otherwise than 200', NULL, NULL);
INSERT INTO public.deliveries (id, event_id, webhook_id, attempts, last_attempt_at, last_status, last_error, delivered_at, failed_at) OVERRIDING SYSTEM VALUE VALUES (3, 3, 1, 1, '2026-11-28 12:31:16.597858+00', 500, 'answered otherwise than 200', NULL, NULL);
INSERT INTO public.deliveries (id, event_id, webhook_id, attempts, last_attempt_at, last_status, last_error, delivered_at, failed_at) OVERRIDING SYSTEM VALUE VALUES (4, 4, 1, 1, '2026-11-28 12:31:16.608742+00', 500, 'answered otherwise than 200', NULL, NULL);
INSERT INTO public.deliveries (id, event_id, webhook_id, attempts, last_attempt_at, last_status, last_error, delivered_at, failed_at) OVERRIDING SYSTEM VALUE VALUES (5, 5, 1, 1, '2026-11-28 12:31:17.184121+00', 500, 'answered otherwise than 200', NULL, NULL);
INSERT INTO public.deliveries (id, event_id, webhook_id, attempts, last_attempt_at, last_status, last_error, delivered_at, failed_at) OVERRIDING SYSTEM VALUE VALUES (6, 6, 1, 1, '2026-11-28 12:31:17.784972+00', 500, 'answered otherwise than 200', NULL, NULL);
INSERT INTO public.deliveries (id, event_id, webhook_id, attempts, last_attempt_at, last_status, last_error, delivered_at, failed_at) OVERRIDING SYSTEM VALUE VALUES (7, 7, 1, 1, '2026-11-28 12:31:17.908809+00', 500, 'answered otherwise than 200', NULL, NULL);
INSERT INTO public.deliveries (id, event_id, webhook_id, attempts, last_attempt_at, last_status, last_error, delivered_at, failed_at) OVERRIDING SYSTEM VALUE VALUES (8, 8, 1, 1, '2026-11-28 12:31:18.054082+00', 500, 'answered otherwise than 200', NULL, NULL);
INSERT INTO public.deliveries (id, event_id, webhook_id, attempts, last_attempt_at, last_status, last_error, delivered_at, failed_at) OVERRIDING SYSTEM VALUE VALUES (9, 9, 1, 0, NULL, NULL, NULL, NULL, NULL);
ALTER TABLE public.deliveries ENABLE TRIGGER ALL;
ALTER TABLE public.idempotency_keys DISABLE TRIGGER ALL;
INSERT INTO public.idempotency_keys (caller, path, key, request_sha256, run, runs_until, created_at, status, body) VALUES ('domains', 'd6ee6b2095ab8b8e2cfbee403611b0e69b7eb564016dc93913460356d22dea72', 'of-the-old-release', '\xdee7ef70c8aeaff70dd8a5668f3b0aded7960c9ccc9b5f59362d537db2e0b35b', 1, '2026-11-28 12:31:53.328724+00', '2026-11-28 12:31:18.328724+00', 201, '\x7b226964223a223939393137663331333231326632326361383039313861323738383364363365222c22646f6d61696e5f6e616d65223a2270656e64696e672e6578616d706c652e636f6d222c22766572696669636174696f6e5f746f6b656e223a2261343764633063356532636631313761643832663061613139663531353836323166346266383666303131383638653765666565396262343332343534643763222c22737461747573223a2270656e64696e67222c22696e737472756374696f6e73223a22437265617465206120545854207265636f726420666f72205f61636d652d6368616c6c656e67652e70656e64696e672e6578616d706c652e636f6d2e20776974682076616c75653a20613437646330633565326366313137616438326630616131396635313538363231663462663836663031313836386537656665653962623433323435346437632e204f722c206f6e636520666f72207468697320616e6420616c6c2072656e6577616c733a20437265617465206120434e414d45207265636f726420666f72205f61636d652d6368616c6c656e67652e70656e64696e672e6578616d706c652e636f6d2e2077697468207461726765743a2066313361346236666665343534653339613130656136623361356434633633642e61636d652e636f756e7465727369676e2e6578616d706c652e20616e64206e6f20545854207265636f726420626573696465206974222c2264656c65676174696f6e223a7b227265636f72645f6e616d65223a225f61636d652d6368616c6c656e67652e70656e64696e672e6578616d706c652e636f6d2e222c22636e616d655f746172676574223a2266313361346236666665343534653339613130656136623361356434633633642e61636d652e636f756e7465727369676e2e6578616d706c652e227d7d');
ALTER TABLE public.idempotency_keys ENABLE TRIGGER ALL;
ALTER TABLE public.presenter_proposals DISABLE TRIGGER ALL;
INSERT INTO public.presenter_proposals (id, account_id, domain_id, trial_domain_id, settings, secret, proposed_at, refused_at, refused_because) OVERRIDING SYSTEM VALUE VALUES (1, 2, 4, 4, '{"url": "https://receiver.example:14001/dns", "kind": "webhook"}', 'of the old release', '2026-11-28 12:31:18.323424+00', NULL, NULL);
ALTER TABLE public.presenter_proposals ENABLE TRIGGER ALL;
ALTER TABLE public.jobs DISABLE TRIGGER ALL;
INSERT INTO public.jobs (id, kind, order_id, lane, due_at, lease, leased_by, attempts, last_result, parked_at, woken, trace_context, created_at, lease_process, delivery_id, proposal_id) OVERRIDING SYSTEM VALUE VALUES (1, 'sweep', NULL, 2, '2026-11-28 12:32:15.173774+00', 1, NULL, 0, '{"at": "2026-11-28T12:31:15.173684716Z", "orders": 0}', NULL, false, NULL, '2026-11-28 12:31:14.729927+00', -8550853037622186349, NULL, NULL);
INSERT INTO public.jobs (id, kind, order_id, lane, due_at, lease, leased_by, attempts, last_result, parked_at, woken, trace_context, created_at, lease_process, delivery_id, proposal_id) OVERRIDING SYSTEM VALUE VALUES (3, 'renew-due', NULL, 2, '2026-11-28 12:32:15.185616+00', 1, NULL, 0, '{"at": "2026-11-28T12:31:15.185585517Z", "planned": 0, "renewing": 0}', NULL, false, NULL, '2026-11-28 12:31:14.789701+00', -8550853037622186349, NULL, NULL);
INSERT INTO public.jobs (id, kind, order_id, lane, due_at, lease, leased_by, attempts, last_result, parked_at, woken, trace_context, created_at, lease_process, delivery_id, proposal_id) OVERRIDING SYSTEM VALUE VALUES (2, 'purge', NULL, 2, '2026-11-28 13:31:15.212483+00', 1, NULL, 0, '{"at": "2026-11-28T12:31:15.212452905Z", "orders": 0, "domains": 0}', NULL, false, NULL, '2026-11-28 12:31:14.757104+00', -8550853037622186349, NULL, NULL);
INSERT INTO public.jobs (id, kind, order_id, lane, due_at, lease, leased_by, attempts, last_result, parked_at, woken, trace_context, created_at, lease_process, delivery_id, proposal_id) OVERRIDING SYSTEM VALUE VALUES (8, 'deliver-event', NULL, 3, '2026-11-28 12:31:28.589846+00', 1, NULL, 1, '{"failure": {"at": "2026-11-28T12:31:16.576060462Z", "detail": "answered otherwise than 200"}, "failures": 1}', NULL, false, NULL, '2026-11-28 12:31:16.032002+00', -8550853037622186349, 2, NULL);
INSERT INTO public.jobs (id, kind, order_id, lane, due_at, lease, leased_by, attempts, last_result, parked_at, woken, trace_context, created_at, lease_process, delivery_id, proposal_id) OVERRIDING SYSTEM VALUE VALUES (7, 'deliver-event', NULL, 3, '2026-11-28 12:31:29.250665+00', 1, NULL, 1, '{"failure": {"at": "2026-11-28T12:31:16.581352233Z", "detail": "answered otherwise than 200"}, "failures": 1}', NULL, false, NULL, '2026-11-28 12:31:16.022652+00', -8550853037622186349, 1, NULL);
INSERT INTO public.jobs (id, kind, order_id, lane, due_at, lease, leased_by, attempts, last_result, parked_at, woken, trace_context, created_at, lease_process, delivery_id, proposal_id) OVERRIDING SYSTEM VALUE VALUES (10, 'deliver-event', NULL, 3, '2026-11-28 12:31:28.50709+00', 1, NULL, 1, '{"failure": {"at": "2026-11-28T12:31:16.599373597Z", "detail": "answered otherwise than 200"}, "failures": 1}', NULL, false, NULL, '2026-11-28 12:31:16.575908+00', -8550853037622186349, 3, NULL);
INSERT INTO public.jobs (id, kind, order_id, lane, due_at, lease, leased_by, attempts, last_result, parked_at, woken, trace_context, created_at, lease_process, delivery_id, proposal_id) OVERRIDING SYSTEM VALUE VALUES (11, 'deliver-event', NULL, 3, '2026-11-28 12:31:28.021092+00', 1, NULL, 1, '{"failure": {"at": "2026-11-28T12:31:16.608890951Z", "detail": "answered otherwise than 200"}, "failures": 1}', NULL, false, NULL, '2026-11-28 12:31:16.594861+00', -8550853037622186349, 4, NULL);
INSERT INTO public.jobs (id, kind, order_id, lane, due_at, lease, leased_by, attempts, last_result, parked_at, woken, trace_context, created_at, lease_process, delivery_id, proposal_id) OVERRIDING SYSTEM VALUE VALUES (13, 'deliver-event', NULL, 3, '2026-11-28 12:31:29.74469+00', 1, NULL, 1, '{"failure": {"at": "2026-11-28T12:31:17.184271729Z", "detail": "answered otherwise than 200"}, "failures": 1}', NULL, false, NULL, '2026-11-28 12:31:17.163959+00', -8550853037622186349, 5, NULL);
INSERT INTO public.jobs (id, kind, order_id, lane, due_at, lease, leased_by, attempts, last_result, parked_at, woken, trace_context, created_at, lease_process, delivery_id, proposal_id) OVERRIDING SYSTEM VALUE VALUES (15, 'deliver-event', NULL, 3, '2026-11-28 12:31:29.833448+00', 1, NULL, 1, '{"failure": {"at": "2026-11-28T12:31:17.785278515Z", "detail": "answered otherwise than 200"}, "failures": 1}', NULL, false, NULL, '2026-11-28 12:31:17.726037+00', -8550853037622186349, 6, NULL);
INSERT INTO public.jobs (id, kind, order_id, lane, due_at, lease, leased_by, attempts, last_result, parked_at, woken, trace_context, created_at, lease_process, delivery_id, proposal_id) OVERRIDING SYSTEM VALUE VALUES (23, 'deliver-event', NULL, 3, '2026-11-28 12:31:30.575079+00', 1, NULL, 1, '{"failure": {"at": "2026-11-28T12:31:18.053577648Z", "detail": "answered otherwise than 200"}, "failures": 1}', NULL, false, NULL, '2026-11-28 12:31:17.957804+00', -8550853037622186349, 8, NULL);
INSERT INTO public.jobs (id, kind, order_id, lane, due_at, lease, leased_by, attempts, last_result, parked_at, woken, trace_context, created_at, lease_process, delivery_id, proposal_id) OVERRIDING SYSTEM VALUE VALUES (20, 'poll-challenge', 10, 1, '2026-11-28 12:31:27.146498+00', 1, 'worker-1', 0, NULL, NULL, false, '{"request_id": "d36fc5ad00bc31da678d1da05640017a"}', '2026-11-28 12:31:17.852409+00', -8550853037622186349, NULL, NULL);
INSERT INTO public.jobs (id, kind, order_id, lane, due_at, lease, leased_by, attempts, last_result, parked_at, woken, trace_context, created_at, lease_process, delivery_id, proposal_id) OVERRIDING SYSTEM VALUE VALUES (22, 'poll-challenge', 12, 0, '2026-11-28 12:31:27.146498+00', 1, 'worker-1', 0, NULL, NULL, false, '{"request_id": "8bc8db9ceef955a5e791a94a0406a873"}', '2026-11-28 12:31:17.938495+00', -8550853037622186349, NULL, NULL);
INSERT INTO public.jobs (id, kind, order_id, lane, due_at, lease, leased_by, attempts, last_result, parked_at, woken, trace_context, created_at, lease_process, delivery_id, proposal_id) OVERRIDING SYSTEM VALUE VALUES (17, 'poll-challenge', 8, 1, '2026-11-28 12:31:18.219182+00', 3, NULL, 0, '{"at": "2026-11-28T12:31:18.019182948Z", "detail": "another value: e20b614163b217186b4c8fb8fd4fa8112d7618c97a096d02c41074e417ff1683", "parked": "by an operator", "result": "other_value", "values": ["e20b614163b217186b4c8fb8fd4fa8112d7618c97a096d02c41074e417ff1683"]}', '2026-11-28 12:31:18.289292+00', false, '{"request_id": "7dd61ddc3905bd218a64745022c5213f"}', '2026-11-28 12:31:17.795658+00', -8550853037622186349, NULL, NULL);
INSERT INTO public.jobs (id, kind, order_id, lane, due_at, lease, leased_by, attempts, last_result, parked_at, woken, trace_context, created_at, lease_process, delivery_id, proposal_id) OVERRIDING SYSTEM VALUE VALUES (18, 'poll-challenge', 9, 1, '2026-11-28 12:31:18.293885+00', 2, NULL, 0, '{"at": "2026-11-28T12:31:18.055827671Z", "detail": "another value: ac2ef123b1429185f7804339bcd453a1576ed345a0f5de371aadfcbd64ea9342", "result": "other_value", "values": ["ac2ef123b1429185f7804339bcd453a1576ed345a0f5de371aadfcbd64ea9342"]}', NULL, true, '{"request_id": "a15ceb8db646e8d2d793b15c67e82459"}', '2026-11-28 12:31:17.825459+00', -8550853037622186349, NULL, NULL);
INSERT INTO public.jobs (id, kind, order_id, lane, due_at, lease, leased_by, attempts, last_result, parked_at, woken, trace_context, created_at, lease_process, delivery_id, proposal_id) OVERRIDING SYSTEM VALUE VALUES (19, 'deliver-event', NULL, 3, '2026-11-28 12:31:29.227038+00', 1, NULL, 1, '{"failure": {"at": "2026-11-28T12:31:17.910452192Z", "detail": "answered otherwise than 200"}, "failures": 1}', NULL, false, NULL, '2026-11-28 12:31:17.8449+00', -8550853037622186349, 7, NULL);
INSERT INTO public.jobs (id, kind, order_id, lane, due_at, lease, leased_by, attempts, last_result, parked_at, woken, trace_context, created_at, lease_process, delivery_id, proposal_id) OVERRIDING SYSTEM VALUE VALUES (16, 'poll-challenge', 7, 1, '2026-11-28 12:31:18.203677+00', 2, NULL, 0, '{"at": "2026-11-28T12:31:18.003677086Z", "detail": "another value: ca2d3536ac8c50e6c5de2a37956823410531e5cbbd2afa52358e30a68fc43ae3", "result": "other_value", "values": ["ca2d3536ac8c50e6c5de2a37956823410531e5cbbd2afa52358e30a68fc43ae3"]}', NULL, false, '{"request_id": "a5d5beda44a384e059e92425ab692de9"}', '2026-11-28 12:31:17.763027+00', -8550853037622186349, NULL, NULL);
INSERT INTO public.jobs (id, kind, order_id, lane, due_at, lease, leased_by, attempts, last_result, parked_at, woken, trace_context, created_at, lease_process, delivery_id, proposal_id) OVERRIDING SYSTEM VALUE VALUES (21, 'poll-challenge', 11, 0, '2026-11-28 12:31:27.146498+00', 1, 'worker-1', 0, NULL, NULL, false, '{"request_id": "a72a36ed7390809f6051b67dd218cfb7"}', '2026-11-28 12:31:17.896337+00', -8550853037622186349, NULL, NULL);
INSERT INTO public.jobs (id, kind, order_id, lane, due_at, lease, leased_by, attempts, last_result, parked_at, woken, trace_context, created_at, lease_process, delivery_id, proposal_id) OVERRIDING SYSTEM VALUE VALUES (24, 'poll-challenge', 13, 1, '2026-11-28 12:31:27.146498+00', 1, 'worker-1', 0, NULL, NULL, false, '{"request_id": "5d8766e128756a6711b4bd6d487a060b"}', '2026-11-28 12:31:17.97243+00', -8550853037622186349, NULL, NULL);
INSERT INTO public.jobs (id, kind, order_id, lane, due_at, lease, leased_by, attempts, last_result, parked_at, woken, trace_context, created_at, lease_process, delivery_id, proposal_id) OVERRIDING SYSTEM VALUE VALUES (25, 'poll-challenge', 14, 0, '2026-11-28 12:31:27.146498+00', 1, 'worker-1', 0, NULL, NULL, false, '{"request_id": "b05aee93b427728a8055c9fcbaed1a3b"}', '2026-11-28 12:31:17.994382+00', -8550853037622186349, NULL, NULL);
INSERT INTO public.jobs (id, kind, order_id, lane, due_at, lease, leased_by, attempts, last_result, parked_at, woken, trace_context, created_at, lease_process, delivery_id, proposal_id) OVERRIDING SYSTEM VALUE VALUES (32, 'poll-challenge', 18, 1, '2026-11-28 12:31:18.3173+00', 0, NULL, 0, NULL, NULL, false, '{"request_id": "92b00d4d7fdade3ca3987b2306e7d8e8"}', '2026-11-28 12:31:18.3173+00', NULL, NULL, NULL);
INSERT INTO public.jobs (id, kind, order_id, lane, due_at, lease, leased_by, attempts, last_result, parked_at, woken, trace_context, created_at, lease_process, delivery_id, proposal_id) OVERRIDING SYSTEM VALUE VALUES (33, 'try-presenter', NULL, 2, '2026-11-28 12:31:18.323424+00', 0, NULL, 0, NULL, NULL, false, '{"request_id": "b252c91cb196c153d2c90c72c27f979d"}', '2026-11-28 12:31:18.323424+00', NULL, NULL, 1);
INSERT INTO public.jobs (id, kind, order_id, lane, due_at, lease, leased_by, attempts, last_result, parked_at, woken, trace_context, created_at, lease_process, delivery_id, proposal_id) OVERRIDING SYSTEM VALUE VALUES (26, 'poll-challenge', 15, 0, '2026-11-28 12:31:27.171136+00', 1, 'worker-1', 0, NULL, NULL, false, '{"request_id": "2d22bc5fb70fc7f263aca56905f9d2ac"}', '2026-11-28 12:31:18.048122+00', -8550853037622186349, NULL, NULL);
INSERT INTO public.jobs (id, kind, order_id, lane, due_at, lease, leased_by, attempts, last_result, parked_at, woken, trace_context, created_at, lease_process, delivery_id, proposal_id) OVERRIDING SYSTEM VALUE VALUES (30, 'deliver-event', NULL, 3, '2026-11-28 12:31:18.301965+00', 0, NULL, 0, NULL, NULL, false, NULL, '2026-11-28 12:31:18.301965+00', NULL, 9, NULL);
INSERT INTO public.jobs (id, kind, order_id, lane, due_at, lease, leased_by, attempts, last_result, parked_at, woken, trace_context, created_at, lease_process, delivery_id, proposal_id) OVERRIDING SYSTEM VALUE VALUES (27, 'poll-challenge', 16, 0, '2026-11-28 12:31:27.201322+00', 1, 'worker-1', 0, NULL, NULL, false, '{"request_id": "5614d149a9036cdf4dbecf5fa5c4579c"}', '2026-11-28 12:31:18.107009+00', -8550853037622186349, NULL, NULL);
INSERT INTO public.jobs (id, kind, order_id, lane, due_at, lease, leased_by, attempts, last_result, parked_at, woken, trace_context, created_at, lease_process, delivery_id, proposal_id) OVERRIDING SYSTEM VALUE VALUES (31, 'poll-challenge', 17, 1, '2026-11-28 12:31:18.308563+00', 0, NULL, 0, NULL, NULL, false, '{"request_id": "49462a66a23dea8bdba308ecb58045ae"}', '2026-11-28 12:31:18.308563+00', NULL, NULL, NULL);
ALTER TABLE public.jobs ENABLE TRIGGER ALL;
ALTER TABLE public.order_events DISABLE TRIGGER ALL;
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (1, 1, '2026-11-28 12:31:15.331188+00', 'accepted', 'accepted', 'api', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (2, 1, '2026-11-28 12:31:15.524629+00', 'placed', 'placed', 'worker-1', '{"acme_url": "https://ca.example:14000/my-order/P05Ve46oCS_pFDUs0tDPcOcUH6-Q4KuZTPYiBEf7Yuc"}');
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (3, 1, '2026-11-28 12:31:15.530694+00', 'presented', 'presented', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (4, 1, '2026-11-28 12:31:15.540868+00', 'seen', 'presented', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (5, 1, '2026-11-28 12:31:15.54543+00', 'confirmed', 'confirmed', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (6, 1, '2026-11-28 12:31:15.552705+00', 'responded', 'responded', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (7, 1, '2026-11-28 12:31:15.559485+00', 'authorized', 'authorized', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (8, 1, '2026-11-28 12:31:15.624018+00', 'prepared', 'prepared', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (9, 1, '2026-11-28 12:31:15.63409+00', 'finalizing', 'finalizing', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (10, 1, '2026-11-28 12:31:15.643229+00', 'issued', 'issued', 'worker-1', '{"issuer": "Pebble Intermediate CA 515478", "serial_number": "183b3bbf8cd2aa97", "fingerprint_sha256": "e8c2dfd6822a1473f24ffe4973d9ebc9315eeced95256a71ae46d92d0b01a881"}');
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (11, 1, '2026-11-28 12:31:15.647894+00', 'cleaned_up', 'issued', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (12, 2, '2026-11-28 12:31:15.675883+00', 'accepted', 'accepted', 'api', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (13, 2, '2026-11-28 12:31:15.715081+00', 'placed', 'placed', 'worker-1', '{"acme_url": "https://ca.example:14000/my-order/_NtxBa0fLJZGefC5YgWCNTaO5NsygvUHjMKZFRrd3r8"}');
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (14, 2, '2026-11-28 12:31:15.721077+00', 'presented', 'presented', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (15, 2, '2026-11-28 12:31:15.945633+00', 'gave_up', 'failed', 'worker-1', '{"code": "record_not_seen", "detail": "the TXT record _acme-challenge.failed.example.com. did not show the expected value in time (another value: 58f304ca6449f7e2d57f0ebea0f83a4365f6fb039dd0ee5b5f696c449894f437); set it to U65PbhlDH3ndW3M6TlGc4lXwvccyCMqDSnyRjjjWzUA, then retry", "findings": [{"code": "wrong_value", "detail": "_acme-challenge.failed.example.com. shows 58f304ca6449f7e2d57f0ebea0f83a4365f6fb039dd0ee5b5f696c449894f437 and not U65PbhlDH3ndW3M6TlGc4lXwvccyCMqDSnyRjjjWzUA", "record": {"name": "_acme-challenge.failed.example.com.", "type": "TXT", "value": "U65PbhlDH3ndW3M6TlGc4lXwvccyCMqDSnyRjjjWzUA"}, "severity": "error"}]}');
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (16, 2, '2026-11-28 12:31:15.951751+00', 'cleaned_up', 'failed', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (17, 3, '2026-11-28 12:31:15.988891+00', 'accepted', 'accepted', 'api', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (18, 3, '2026-11-28 12:31:16.008179+00', 'gave_up', 'failed', 'worker-1', '{"acme": {"type": "urn:ietf:params:acme:error:rejectedIdentifier", "detail": "Order included an identifier for which issuance is forbidden by policy: \"blocked.example.com\"", "status": 400}, "code": "name_refused", "detail": "the certificate authority does not issue certificates for blocked.example.com"}');
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (19, 3, '2026-11-28 12:31:16.011078+00', 'cleaned_up', 'failed', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (20, 4, '2026-11-28 12:31:16.048968+00', 'accepted', 'accepted', 'api', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (21, 4, '2026-11-28 12:31:16.539631+00', 'placed', 'placed', 'worker-1', '{"acme_url": "https://ca.example:14000/my-order/4FuhVdb86ejAm7MpSHYfgN-9Ym2qyaVaFPxWk5EjO5E"}');
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (22, 4, '2026-11-28 12:31:16.544811+00', 'presented', 'presented', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (23, 4, '2026-11-28 12:31:16.547892+00', 'seen', 'presented', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (24, 4, '2026-11-28 12:31:16.549992+00', 'confirmed', 'confirmed', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (25, 4, '2026-11-28 12:31:16.555458+00', 'responded', 'responded', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (26, 4, '2026-11-28 12:31:16.559256+00', 'authorized', 'authorized', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (27, 4, '2026-11-28 12:31:16.561309+00', 'prepared', 'prepared', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (28, 4, '2026-11-28 12:31:16.569125+00', 'finalizing', 'finalizing', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (29, 4, '2026-11-28 12:31:16.575908+00', 'issued', 'issued', 'worker-1', '{"issuer": "Pebble Intermediate CA 515478", "serial_number": "265436fd6f099214", "fingerprint_sha256": "c40d55cf31f1092b125fa23aa9abcf5f57c8a1e23f8885050879157067b9ad9e"}');
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (30, 4, '2026-11-28 12:31:16.588616+00', 'cleaned_up', 'issued', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (31, 5, '2026-11-28 12:31:16.613884+00', 'accepted', 'accepted', 'api', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (32, 5, '2026-11-28 12:31:17.127291+00', 'placed', 'placed', 'worker-1', '{"acme_url": "https://ca.example:14000/my-order/VEDBbPlJ8qX27YElgk6_moNrjGwifhickdtSdbWpgx8"}');
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (33, 5, '2026-11-28 12:31:17.132377+00', 'presented', 'presented', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (34, 5, '2026-11-28 12:31:17.135192+00', 'seen', 'presented', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (35, 5, '2026-11-28 12:31:17.137242+00', 'confirmed', 'confirmed', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (36, 5, '2026-11-28 12:31:17.143236+00', 'responded', 'responded', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (37, 5, '2026-11-28 12:31:17.146808+00', 'authorized', 'authorized', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (38, 5, '2026-11-28 12:31:17.149243+00', 'prepared', 'prepared', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (39, 5, '2026-11-28 12:31:17.15572+00', 'finalizing', 'finalizing', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (40, 5, '2026-11-28 12:31:17.163959+00', 'issued', 'issued', 'worker-1', '{"issuer": "Pebble Intermediate CA 515478", "serial_number": "4f8ab39c7835f623", "fingerprint_sha256": "8896948d43652fbb39c2a2a114f505e4da6a921c7f5a80a3f74dca6a231f7bd1"}');
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (41, 5, '2026-11-28 12:31:17.174217+00', 'cleaned_up', 'issued', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (42, 6, '2026-11-28 12:31:17.209967+00', 'accepted', 'accepted', 'api', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (43, 6, '2026-11-28 12:31:17.697378+00', 'placed', 'placed', 'worker-1', '{"acme_url": "https://ca.example:14000/my-order/CQX08ZckaZ7HVVqrDTwusmjjqkHBwyJa5etXx6xIVQo"}');
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (44, 6, '2026-11-28 12:31:17.702092+00', 'presented', 'presented', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (45, 6, '2026-11-28 12:31:17.704087+00', 'seen', 'presented', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (46, 6, '2026-11-28 12:31:17.705625+00', 'confirmed', 'confirmed', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (47, 6, '2026-11-28 12:31:17.709375+00', 'responded', 'responded', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (48, 6, '2026-11-28 12:31:17.712724+00', 'authorized', 'authorized', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (49, 6, '2026-11-28 12:31:17.7148+00', 'prepared', 'prepared', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (50, 6, '2026-11-28 12:31:17.721021+00', 'finalizing', 'finalizing', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (51, 6, '2026-11-28 12:31:17.726037+00', 'issued', 'issued', 'worker-1', '{"issuer": "Pebble Intermediate CA 515478", "serial_number": "07bf865ecefd2464", "fingerprint_sha256": "ff9e648175fdb7b279a04ee2ef853f80eabab24894f5a3297e2109667543c1b2"}');
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (52, 6, '2026-11-28 12:31:17.734848+00', 'cleaned_up', 'issued', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (53, 7, '2026-11-28 12:31:17.763027+00', 'accepted', 'accepted', 'api', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (54, 7, '2026-11-28 12:31:17.77642+00', 'placed', 'placed', 'worker-1', '{"acme_url": "https://ca.example:14000/my-order/FP-X3lhAwauz0HrKeaZYcALeHLe4B4Ae9xyhkeCCV5Q"}');
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (55, 7, '2026-11-28 12:31:17.781096+00', 'presented', 'presented', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (56, 8, '2026-11-28 12:31:17.795658+00', 'accepted', 'accepted', 'api', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (57, 8, '2026-11-28 12:31:17.809102+00', 'placed', 'placed', 'worker-1', '{"acme_url": "https://ca.example:14000/my-order/E3BHBB3pw4zz0CJgR-wdg8U8NN6-lSSqveKRgzAN1yQ"}');
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (58, 8, '2026-11-28 12:31:17.812256+00', 'presented', 'presented', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (59, 9, '2026-11-28 12:31:17.825459+00', 'accepted', 'accepted', 'api', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (60, 9, '2026-11-28 12:31:17.836822+00', 'placed', 'placed', 'worker-1', '{"acme_url": "https://ca.example:14000/my-order/yfxFgxr1pyHxUjdo482j6M3ZGucyf1n51x64QD_CRVk"}');
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (61, 9, '2026-11-28 12:31:17.841244+00', 'presented', 'presented', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (62, 10, '2026-11-28 12:31:17.852409+00', 'accepted', 'accepted', 'api', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (63, 11, '2026-11-28 12:31:17.896337+00', 'accepted', 'accepted', 'api', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (64, 10, '2026-11-28 12:31:17.912476+00', 'placed', 'placed', 'worker-1', '{"acme_url": "https://ca.example:14000/my-order/bR8y7cAd53Mqpji_0uECUKrmigWqJYMWUOjurS_G89M"}');
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (65, 11, '2026-11-28 12:31:17.918509+00', 'placed', 'placed', 'worker-1', '{"acme_url": "https://ca.example:14000/my-order/C0pN9CJPsfOM8hPCbWpi2WOzde2y2MCXHS3i2i2UtoE"}');
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (66, 12, '2026-11-28 12:31:17.938495+00', 'accepted', 'accepted', 'api', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (67, 12, '2026-11-28 12:31:17.950794+00', 'placed', 'placed', 'worker-1', '{"acme_url": "https://ca.example:14000/my-order/3Td-QQToDgO8_XAJVywHa_79s6QYHquVrae-C4mSw5s"}');
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (68, 12, '2026-11-28 12:31:17.954028+00', 'presented', 'presented', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (69, 12, '2026-11-28 12:31:17.959734+00', 'seen', 'presented', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (74, 11, '2026-11-28 12:31:17.979254+00', 'seen', 'presented', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (77, 14, '2026-11-28 12:31:18.017214+00', 'placed', 'placed', 'worker-1', '{"acme_url": "https://ca.example:14000/my-order/2qj2DoVjFbrbvXbJ9S-8xk7QuaHIY1FNyTVvAbH83yQ"}');
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (80, 14, '2026-11-28 12:31:18.033438+00', 'seen', 'presented', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (90, 13, '2026-11-28 12:31:18.07449+00', 'authorized', 'authorized', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (96, 15, '2026-11-28 12:31:18.105918+00', 'authorized', 'authorized', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (99, 16, '2026-11-28 12:31:18.127997+00', 'presented', 'presented', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (102, 16, '2026-11-28 12:31:18.144159+00', 'responded', 'responded', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (70, 12, '2026-11-28 12:31:17.962944+00', 'confirmed', 'confirmed', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (75, 11, '2026-11-28 12:31:17.981936+00', 'confirmed', 'confirmed', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (78, 13, '2026-11-28 12:31:18.026267+00', 'placed', 'placed', 'worker-1', '{"acme_url": "https://ca.example:14000/my-order/xCvojPmpYPb1oFrLUxSRaw8L_NB861g3hgoaV18WBmY"}');
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (83, 13, '2026-11-28 12:31:18.046834+00', 'seen', 'presented', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (87, 14, '2026-11-28 12:31:18.061904+00', 'authorized', 'authorized', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (91, 15, '2026-11-28 12:31:18.076535+00', 'presented', 'presented', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (95, 15, '2026-11-28 12:31:18.10196+00', 'responded', 'responded', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (101, 16, '2026-11-28 12:31:18.141143+00', 'confirmed', 'confirmed', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (104, 15, '2026-11-28 12:31:18.163624+00', 'prepared', 'prepared', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (106, 16, '2026-11-28 12:31:18.188072+00', 'prepared', 'prepared', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (107, 16, '2026-11-28 12:31:18.196467+00', 'finalizing', 'finalizing', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (108, 16, '2026-11-28 12:31:18.201322+00', 'issued', 'issued', 'worker-1', '{"issuer": "Pebble Intermediate CA 515478", "serial_number": "3b62c44ca32172b1", "fingerprint_sha256": "c4f3f419d98ac648a80b6d0cf8a6483136aa3951bbc052d16ae539ee4a73acd8"}');
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (71, 12, '2026-11-28 12:31:17.96906+00', 'responded', 'responded', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (72, 11, '2026-11-28 12:31:17.973082+00', 'presented', 'presented', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (81, 13, '2026-11-28 12:31:18.03661+00', 'presented', 'presented', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (85, 13, '2026-11-28 12:31:18.053195+00', 'confirmed', 'confirmed', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (89, 15, '2026-11-28 12:31:18.073426+00', 'placed', 'placed', 'worker-1', '{"acme_url": "https://ca.example:14000/my-order/0_9rqXM1OLsDgNLReb0yi9j9sGLeMsEmdGd6v093d04"}');
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (94, 14, '2026-11-28 12:31:18.100408+00', 'prepared', 'prepared', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (73, 13, '2026-11-28 12:31:17.97243+00', 'accepted', 'accepted', 'api', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (76, 14, '2026-11-28 12:31:17.994382+00', 'accepted', 'accepted', 'api', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (79, 14, '2026-11-28 12:31:18.024553+00', 'presented', 'presented', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (82, 14, '2026-11-28 12:31:18.036348+00', 'confirmed', 'confirmed', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (88, 13, '2026-11-28 12:31:18.069396+00', 'responded', 'responded', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (93, 15, '2026-11-28 12:31:18.092652+00', 'confirmed', 'confirmed', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (100, 16, '2026-11-28 12:31:18.133298+00', 'seen', 'presented', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (111, 18, '2026-11-28 12:31:18.3173+00', 'accepted', 'accepted', 'api', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (84, 14, '2026-11-28 12:31:18.052182+00', 'responded', 'responded', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (92, 15, '2026-11-28 12:31:18.087293+00', 'seen', 'presented', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (98, 16, '2026-11-28 12:31:18.125753+00', 'placed', 'placed', 'worker-1', '{"acme_url": "https://ca.example:14000/my-order/OtMtxVtBNjT-xzaAwnrjhNTxcauKjb4KEKv6KGNHFxI"}');
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (103, 16, '2026-11-28 12:31:18.147319+00', 'authorized', 'authorized', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (105, 15, '2026-11-28 12:31:18.171136+00', 'finalizing', 'finalizing', 'worker-1', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (86, 15, '2026-11-28 12:31:18.048122+00', 'accepted', 'accepted', 'api', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (97, 16, '2026-11-28 12:31:18.107009+00', 'accepted', 'accepted', 'api', NULL);
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (109, 9, '2026-11-28 12:31:18.293885+00', 'cancelled', 'cancelled', 'api', '{"code": "domain_deleted", "detail": "the domain was deleted"}');
INSERT INTO public.order_events (id, order_id, at, event, state, actor, detail) OVERRIDING SYSTEM VALUE VALUES (110, 17, '2026-11-28 12:31:18.308563+00', 'accepted', 'accepted', 'api', NULL);
ALTER TABLE public.order_events ENABLE TRIGGER ALL;
ALTER TABLE public.renewals DISABLE TRIGGER ALL;
INSERT INTO public.renewals (id, old_certificate_id, new_certificate_id, state, auto_renew, is_automatic, created_at, updated_at) OVERRIDING SYSTEM VALUE VALUES (1, 4, 6, 'renewed', true, false, '2026-11-28 12:31:17.204161+00', '2026-11-28 12:31:17.726037+00');
INSERT INTO public.renewals (id, old_certificate_id, new_certificate_id, state, auto_renew, is_automatic, created_at, updated_at) OVERRIDING SYSTEM VALUE VALUES (2, 5, 18, 'renewing', true, false, '2026-11-28 12:31:18.313017+00', '2026-11-28 12:31:18.3173+00');
ALTER TABLE public.renewals ENABLE TRIGGER ALL;
ALTER TABLE public.request_counts DISABLE TRIGGER ALL;
INSERT INTO public.request_counts (account_id, hour, requests) VALUES (2, '2026-11-28 12:00:00+00', 15);
ALTER TABLE public.request_counts ENABLE TRIGGER ALL;
SELECT pg_catalog.setval('public.accounts_id_seq', 2, true);
SELECT pg_catalog.setval('public.api_tokens_id_seq', 1, true);
SELECT pg_catalog.setval('public.audit_entries_id_seq', 21, true);
SELECT pg_catalog.setval('public.certificates_id_seq', 18, true);
SELECT pg_catalog.setval('public.deliveries_id_seq', 9, true);
SELECT pg_catalog.setval('public.domains_id_seq', 17, true);
SELECT pg_catalog.setval('public.events_id_seq', 9, true);
SELECT pg_catalog.setval('public.jobs_id_seq', 33, true);
SELECT pg_catalog.setval('public.order_events_id_seq', 111, true);
SELECT pg_catalog.setval('public.orders_id_seq', 18, true);
SELECT pg_catalog.setval('public.presenter_configs_id_seq', 1, true);
SELECT pg_catalog.setval('public.presenter_proposals_id_seq', 1, true);
SELECT pg_catalog.setval('public.renewals_id_seq', 2, true);
SELECT pg_catalog.setval('public.webhooks_id_seq', 1, true);
