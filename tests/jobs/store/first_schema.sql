BEGIN TRANSACTION;
CREATE TABLE batchproxy_blob (
	place TEXT NOT NULL, 
	name TEXT NOT NULL, 
	no INTEGER NOT NULL, 
	data BLOB NOT NULL, 
	CONSTRAINT batchproxy_blob_pk PRIMARY KEY (place, name, no)
);
CREATE TABLE batchproxy_chunk (
	job TEXT NOT NULL, 
	no INTEGER NOT NULL, 
	owner TEXT NOT NULL, 
	first_seq INTEGER NOT NULL, 
	span INTEGER NOT NULL, 
	n INTEGER NOT NULL, 
	due_at DOUBLE, 
	holder TEXT, 
	epoch INTEGER NOT NULL, 
	lost INTEGER NOT NULL, 
	done_n INTEGER NOT NULL, 
	failed_n INTEGER NOT NULL, 
	cancelled_n INTEGER NOT NULL, 
	expired_n INTEGER NOT NULL, 
	unknown_n INTEGER NOT NULL, 
	parked_n INTEGER NOT NULL, 
	has_intents BOOLEAN NOT NULL, 
	result_bytes BIGINT NOT NULL, 
	input_no INTEGER NOT NULL, 
	input_skip INTEGER NOT NULL, 
	blob TEXT, 
	blob_start BIGINT, 
	blob_length BIGINT, 
	CONSTRAINT batchproxy_chunk_pk PRIMARY KEY (job, no)
);
INSERT INTO "batchproxy_chunk" VALUES('01a224ca-8006-7cb0-89be-9944d5df697e',0,'ann',0,3,3,NULL,NULL,1,0,3,0,0,0,0,0,0,0,0,0,NULL,NULL,NULL);
INSERT INTO "batchproxy_chunk" VALUES('01a224ca-8006-7cb0-89be-9944d5df697e',1,'ann',3,3,3,1800000030.0,'lost',1,0,0,0,0,0,0,0,0,0,1,0,NULL,NULL,NULL);
CREATE TABLE batchproxy_file (
	id TEXT NOT NULL, 
	owner TEXT NOT NULL, 
	purpose TEXT NOT NULL, 
	filename TEXT NOT NULL, 
	bytes BIGINT NOT NULL, 
	created_at DOUBLE NOT NULL, 
	expires_at DOUBLE, 
	blob TEXT NOT NULL, 
	ready BOOLEAN NOT NULL, 
	gone BOOLEAN NOT NULL, 
	CONSTRAINT batchproxy_file_pk PRIMARY KEY (id)
);
CREATE TABLE batchproxy_input (
	job TEXT NOT NULL, 
	no INTEGER NOT NULL, 
	data BLOB NOT NULL, 
	CONSTRAINT batchproxy_input_pk PRIMARY KEY (job, no)
);
INSERT INTO "batchproxy_input" VALUES('01a224ca-8006-7cb0-89be-9944d5df697e',0,X'93C4066974656D2030C4066974656D2031C4066974656D2032');
INSERT INTO "batchproxy_input" VALUES('01a224ca-8006-7cb0-89be-9944d5df697e',1,X'93C4066974656D2033C4066974656D2034C4066974656D2035');
CREATE TABLE batchproxy_intent (
	job TEXT NOT NULL, 
	seq INTEGER NOT NULL, 
	chunk INTEGER NOT NULL, 
	epoch INTEGER NOT NULL, 
	CONSTRAINT batchproxy_intent_pk PRIMARY KEY (job, seq)
);
CREATE TABLE batchproxy_job (
	id TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	owner TEXT NOT NULL, 
	state TEXT NOT NULL, 
	ending TEXT, 
	version INTEGER NOT NULL, 
	endpoint TEXT NOT NULL, 
	total INTEGER NOT NULL, 
	idempotency_key TEXT, 
	fingerprint BLOB, 
	options BLOB NOT NULL, 
	metadata BLOB NOT NULL, 
	secret BLOB, 
	priority INTEGER NOT NULL, 
	created_at DOUBLE NOT NULL, 
	started_at DOUBLE, 
	finalizing_at DOUBLE, 
	cancel_requested_at DOUBLE, 
	finished_at DOUBLE, 
	expires_at DOUBLE, 
	keep DOUBLE NOT NULL, 
	purge_at DOUBLE, 
	input_file TEXT, 
	output_file TEXT, 
	error_file TEXT, 
	error BLOB, 
	retry_of TEXT, 
	stored_bytes BIGINT NOT NULL, 
	counts BLOB, 
	gone TEXT, 
	cleared BOOLEAN NOT NULL, 
	CONSTRAINT batchproxy_job_pk PRIMARY KEY (id), 
	CONSTRAINT batchproxy_job_uq UNIQUE (owner, idempotency_key)
);
INSERT INTO "batchproxy_job" VALUES('01a224ca-8006-7cb0-89be-9944d5df697e','batch','ann','running',NULL,3,'',6,NULL,X'D28878F54AF98859A1660DC12A4C821C610CEA93F61A6B7111B802164DCCBB97',X'',X'81A161A162',NULL,0,1800000000.0,1800000000.0,NULL,NULL,NULL,1801000000.0,86400.0,NULL,NULL,NULL,NULL,NULL,NULL,50,NULL,NULL,0);
CREATE TABLE batchproxy_limiter (
	upstream TEXT NOT NULL, 
	tokens DOUBLE NOT NULL, 
	refilled_at DOUBLE NOT NULL, 
	share DOUBLE NOT NULL, 
	blocked_until DOUBLE NOT NULL, 
	CONSTRAINT batchproxy_limiter_pk PRIMARY KEY (upstream)
);
CREATE TABLE batchproxy_outbox (
	id TEXT NOT NULL, 
	job TEXT NOT NULL, 
	owner TEXT NOT NULL, 
	event TEXT NOT NULL, 
	target BLOB NOT NULL, 
	payload BLOB NOT NULL, 
	created_at DOUBLE NOT NULL, 
	due_at DOUBLE, 
	attempt INTEGER NOT NULL, 
	epoch INTEGER NOT NULL, 
	detail TEXT NOT NULL, 
	CONSTRAINT batchproxy_outbox_pk PRIMARY KEY (id)
);
CREATE TABLE batchproxy_result (
	job TEXT NOT NULL, 
	seq INTEGER NOT NULL, 
	chunk INTEGER NOT NULL, 
	ordinal INTEGER NOT NULL, 
	epoch INTEGER NOT NULL, 
	outcome TEXT NOT NULL, 
	status INTEGER NOT NULL, 
	custom_id TEXT, 
	failure TEXT, 
	detail TEXT NOT NULL, 
	attempts INTEGER NOT NULL, 
	started_at DOUBLE NOT NULL, 
	finished_at DOUBLE NOT NULL, 
	headers BLOB NOT NULL, 
	blob TEXT, 
	blob_start BIGINT, 
	blob_length BIGINT, 
	body BLOB, 
	CONSTRAINT batchproxy_result_pk PRIMARY KEY (job, seq)
);
INSERT INTO "batchproxy_result" VALUES('01a224ca-8006-7cb0-89be-9944d5df697e',0,0,1,1,'ok',200,NULL,NULL,'',1,0.0,0.0,X'90',NULL,NULL,NULL,X'');
INSERT INTO "batchproxy_result" VALUES('01a224ca-8006-7cb0-89be-9944d5df697e',1,0,2,1,'ok',200,NULL,NULL,'',1,0.0,0.0,X'90',NULL,NULL,NULL,X'');
INSERT INTO "batchproxy_result" VALUES('01a224ca-8006-7cb0-89be-9944d5df697e',2,0,3,1,'ok',200,NULL,NULL,'',1,0.0,0.0,X'90',NULL,NULL,NULL,X'');
CREATE TABLE batchproxy_retry (
	job TEXT NOT NULL, 
	seq INTEGER NOT NULL, 
	chunk INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	due_at DOUBLE NOT NULL, 
	detail TEXT NOT NULL, 
	CONSTRAINT batchproxy_retry_pk PRIMARY KEY (job, seq)
);
CREATE TABLE batchproxy_schema (version_num VARCHAR(32) NOT NULL PRIMARY KEY);
INSERT INTO "batchproxy_schema" VALUES('0001');
CREATE TABLE batchproxy_slot (
	upstream TEXT NOT NULL, 
	worker TEXT NOT NULL, 
	n INTEGER NOT NULL, 
	due_at DOUBLE NOT NULL, 
	CONSTRAINT batchproxy_slot_pk PRIMARY KEY (upstream, worker)
);
CREATE TABLE batchproxy_worker (
	id TEXT NOT NULL, 
	host TEXT NOT NULL, 
	pid INTEGER NOT NULL, 
	version TEXT NOT NULL, 
	started_at DOUBLE NOT NULL, 
	beat_at DOUBLE NOT NULL, 
	draining BOOLEAN NOT NULL, 
	CONSTRAINT batchproxy_worker_pk PRIMARY KEY (id)
);
CREATE INDEX batchproxy_chunk_holder ON batchproxy_chunk (holder);
CREATE INDEX batchproxy_chunk_job_due_at ON batchproxy_chunk (job, due_at);
CREATE INDEX batchproxy_file_expires_at ON batchproxy_file (expires_at);
CREATE INDEX batchproxy_file_owner_id ON batchproxy_file (owner, id);
CREATE INDEX batchproxy_job_owner_id ON batchproxy_job (owner, id);
CREATE INDEX batchproxy_job_purge_at ON batchproxy_job (purge_at);
CREATE INDEX batchproxy_job_state_expires_at ON batchproxy_job (state, expires_at);
CREATE INDEX batchproxy_outbox_due_at ON batchproxy_outbox (due_at);
COMMIT;
