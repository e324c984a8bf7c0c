-- A state file of schema 2: output of the sqlite3 shell's .dump, with the
-- two numbers of the file header, which .dump leaves out. Never edited: old files must stay readable.
PRAGMA application_id = 1363571572;
PRAGMA user_version = 2;
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE meta (
  key TEXT NOT NULL PRIMARY KEY,
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES('lowest_compatible_version','2');
INSERT INTO meta VALUES('writer_version','2');
CREATE TABLE model (
  model_id INTEGER NOT NULL PRIMARY KEY CHECK (model_id = 1),
  fingerprint TEXT NOT NULL CHECK (fingerprint <> ''),
  name TEXT NOT NULL,
  elements INTEGER NOT NULL CHECK (elements >= 0)
) STRICT;
INSERT INTO model VALUES(1,'aa11','model-aa11-F16.gguf',4503599627370499);
CREATE TABLE importance (
  importance_id INTEGER NOT NULL PRIMARY KEY,
  fingerprint TEXT NOT NULL UNIQUE CHECK (fingerprint <> ''),
  name TEXT NOT NULL,
  datasets TEXT NOT NULL,
  chunk_count INTEGER CHECK (chunk_count >= 0),
  has_activations INTEGER NOT NULL CHECK (has_activations IN (0, 1))
) STRICT;
INSERT INTO importance VALUES(1,'bb22','imatrix.gguf','wiki,code',125,1);
CREATE TABLE run (
  run_id INTEGER NOT NULL PRIMARY KEY,
  parameters TEXT NOT NULL UNIQUE,
  importance_id INTEGER REFERENCES importance (importance_id),
  effort TEXT NOT NULL,
  encoder_version INTEGER NOT NULL CHECK (encoder_version >= 0),
  sampling TEXT NOT NULL,
  metric TEXT NOT NULL,
  unit TEXT NOT NULL CHECK (unit IN ('nmse', 'nats')),
  program_version TEXT NOT NULL,
  started TEXT NOT NULL,
  finished TEXT
) STRICT;
INSERT INTO run VALUES(1,'importance=0: effort=3:max encoder=1:3 sampling=14:rows=64 seed=1 metric=7:kappa=3 unit=4:nmse',NULL,'max',3,'rows=64 seed=1','kappa=3','nmse','0.1.0','2026-11-21T11:00:33Z',NULL);
INSERT INTO run VALUES(2,'importance=4:bb22 effort=7:default encoder=1:3 sampling=14:rows=64 seed=1 metric=7:kappa=3 unit=4:nmse',1,'default',3,'rows=64 seed=1','kappa=3','nmse','0.1.0','2026-11-21T11:00:33Z','2026-11-21T11:00:33Z');
CREATE TABLE tensor (
  tensor_id INTEGER NOT NULL PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  role TEXT NOT NULL,
  layer INTEGER CHECK (layer >= 0),
  dimensions INTEGER NOT NULL CHECK (dimensions BETWEEN 0 AND 4),
  ne0 INTEGER NOT NULL CHECK (ne0 >= 0),
  ne1 INTEGER NOT NULL CHECK (ne1 >= 0),
  ne2 INTEGER NOT NULL CHECK (ne2 >= 0),
  ne3 INTEGER NOT NULL CHECK (ne3 >= 0),
  source_format TEXT NOT NULL
) STRICT;
INSERT INTO tensor VALUES(1,'blk.0.attn_q.weight','ffn_up',0,2,256,64,1,1,'F16');
INSERT INTO tensor VALUES(2,'blk.0.ffn_up.weight','ffn_up',0,2,256,64,1,1,'F16');
CREATE TABLE measurement (
  run_id INTEGER NOT NULL REFERENCES run (run_id) ON DELETE CASCADE,
  tensor_id INTEGER NOT NULL REFERENCES tensor (tensor_id) ON DELETE CASCADE,
  rows_sampled INTEGER NOT NULL CHECK (rows_sampled >= 0),
  saved TEXT NOT NULL,
  PRIMARY KEY (run_id, tensor_id)
) STRICT, WITHOUT ROWID;
INSERT INTO measurement VALUES(2,1,32,'2026-11-21T11:00:33Z');
INSERT INTO measurement VALUES(2,2,32,'2026-11-21T11:00:33Z');
CREATE TABLE error (
  run_id INTEGER NOT NULL,
  tensor_id INTEGER NOT NULL,
  format TEXT NOT NULL,
  nmse REAL NOT NULL,
  standard_error REAL NOT NULL,
  bias_share REAL NOT NULL,
  seconds REAL NOT NULL,
  PRIMARY KEY (run_id, tensor_id, format),
  FOREIGN KEY (run_id, tensor_id) REFERENCES measurement (run_id, tensor_id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
INSERT INTO error VALUES(2,1,'Q4_K',0.2000000000000000111,1.4285714285714286277e-06,0.2000000000000000111,0.33333333333333331482);
INSERT INTO error VALUES(2,1,'Q8_0',0.2000000000000000111,3.333333333333333403e-08,0.10000000000000000555,0.25);
INSERT INTO error VALUES(2,2,'Q4_K',0.10000000000000000555,1.4285714285714286277e-06,0.2000000000000000111,0.33333333333333331482);
INSERT INTO error VALUES(2,2,'Q8_0',0.25,3.333333333333333403e-08,0.10000000000000000555,0.25);
CREATE TABLE recipe (
  recipe_id INTEGER NOT NULL PRIMARY KEY,
  run_id INTEGER NOT NULL REFERENCES run (run_id) ON DELETE CASCADE,
  target TEXT NOT NULL,
  budget_bytes INTEGER NOT NULL CHECK (budget_bytes >= 0),
  bytes INTEGER NOT NULL CHECK (bytes >= 0),
  objective REAL NOT NULL,
  lower_bound REAL NOT NULL,
  created TEXT NOT NULL
, fingerprint TEXT NOT NULL DEFAULT '') STRICT;
INSERT INTO recipe VALUES(1,2,'4.5',9007199254740993,9007199254740991,0.10000000000000000555,0.099999999999999991673,'2026-01-02T03:04:05Z','eba0e1a7335806b3899ba7547c2a0691');
CREATE TABLE recipe_entry (
  recipe_id INTEGER NOT NULL REFERENCES recipe (recipe_id) ON DELETE CASCADE,
  position INTEGER NOT NULL CHECK (position >= 0),
  tensor TEXT NOT NULL,
  format TEXT NOT NULL,
  PRIMARY KEY (recipe_id, position)
) STRICT, WITHOUT ROWID;
INSERT INTO recipe_entry VALUES(1,0,'z.weight','Q4_K');
INSERT INTO recipe_entry VALUES(1,1,'a.weight','F32');
CREATE TABLE recipe_provenance (
  recipe_id INTEGER NOT NULL REFERENCES recipe (recipe_id) ON DELETE CASCADE,
  key TEXT NOT NULL,
  value TEXT NOT NULL,
  PRIMARY KEY (recipe_id, key)
) STRICT, WITHOUT ROWID;
INSERT INTO recipe_provenance VALUES(1,'model','model.gguf');
INSERT INTO recipe_provenance VALUES(1,'version','1.2.3');
CREATE TABLE sensitivity_set (
  set_id INTEGER NOT NULL PRIMARY KEY,
  scope TEXT NOT NULL UNIQUE,
  unit TEXT NOT NULL CHECK (unit IN ('relative', 'nats')),
  method TEXT NOT NULL,
  text_fingerprint TEXT NOT NULL,
  importance_fingerprint TEXT NOT NULL,
  metric TEXT NOT NULL,
  program_version TEXT NOT NULL,
  engine_version INTEGER NOT NULL CHECK (engine_version >= 0),
  tokens INTEGER NOT NULL CHECK (tokens >= 0),
  partial INTEGER NOT NULL CHECK (partial IN (0, 1)),
  created TEXT NOT NULL
) STRICT;
INSERT INTO sensitivity_set VALUES(1,'unit=4:nats method=8:schema 1 text=0: importance=0: metric=0: program=0: engine=1:0 tokens=1:0','nats','schema 1','','','','',0,0,1,'2026-11-27T21:46:05Z');
CREATE TABLE sensitivity (
  set_id INTEGER NOT NULL REFERENCES sensitivity_set (set_id) ON DELETE CASCADE,
  tensor TEXT NOT NULL,
  value REAL NOT NULL,
  standard_error REAL NOT NULL,
  obtained TEXT NOT NULL,
  tensor_group TEXT NOT NULL,
  PRIMARY KEY (set_id, tensor)
) STRICT, WITHOUT ROWID;
INSERT INTO sensitivity VALUES(1,'output.weight',45.25,0.0,'prior','');
CREATE TABLE calibration (
  calibration_id INTEGER NOT NULL PRIMARY KEY,
  text_fingerprint TEXT NOT NULL,
  tokens INTEGER NOT NULL CHECK (tokens >= 0),
  context INTEGER NOT NULL CHECK (context >= 0),
  engine_version INTEGER NOT NULL CHECK (engine_version >= 0),
  text_name TEXT NOT NULL,
  program_version TEXT NOT NULL,
  started TEXT NOT NULL,
  finished TEXT,
  layers_finished INTEGER NOT NULL CHECK (layers_finished >= 0),
  UNIQUE (text_fingerprint, tokens, context, engine_version)
) STRICT;
INSERT INTO calibration VALUES(1,'dd44',4096,512,2,'calibration.txt','1','2026-01-02T03:04:05Z',NULL,3);
CREATE TABLE statistics_file (
  statistics_file_id INTEGER NOT NULL PRIMARY KEY,
  fingerprint TEXT NOT NULL UNIQUE CHECK (fingerprint <> ''),
  name TEXT NOT NULL,
  kind TEXT NOT NULL,
  bytes INTEGER NOT NULL CHECK (bytes >= 0),
  text_fingerprint TEXT NOT NULL,
  created TEXT NOT NULL
) STRICT;
INSERT INTO statistics_file VALUES(1,'ee55','moments-ee55.gguf','moments',12345,'dd44','2026-01-02T03:04:05Z');
CREATE TABLE evaluation (
  evaluation_id INTEGER NOT NULL PRIMARY KEY,
  base_fingerprint TEXT NOT NULL,
  candidate_fingerprint TEXT NOT NULL,
  text_fingerprint TEXT NOT NULL,
  context INTEGER NOT NULL CHECK (context >= 0),
  chunks INTEGER NOT NULL CHECK (chunks >= 0),
  engine_version INTEGER NOT NULL CHECK (engine_version >= 0),
  candidate_name TEXT NOT NULL,
  text_name TEXT NOT NULL,
  program_version TEXT NOT NULL,
  created TEXT NOT NULL,
  UNIQUE (base_fingerprint, candidate_fingerprint, text_fingerprint, context, chunks, engine_version)
) STRICT;
INSERT INTO evaluation VALUES(1,'aa11','ff66','dd44',512,20,2,'out.gguf','held-out.txt','1','2026-01-02T03:04:05Z');
CREATE TABLE estimate (
  evaluation_id INTEGER NOT NULL REFERENCES evaluation (evaluation_id) ON DELETE CASCADE,
  quantity TEXT NOT NULL,
  value REAL NOT NULL,
  standard_error REAL,
  PRIMARY KEY (evaluation_id, quantity)
) STRICT, WITHOUT ROWID;
INSERT INTO estimate VALUES(1,'mean kl divergence',0.012500000000000000693,0.00029999999999999997371);
INSERT INTO estimate VALUES(1,'perplexity',7.5,NULL);
CREATE TABLE written_file (
  written_file_id INTEGER NOT NULL PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  recipe_fingerprint TEXT NOT NULL,
  importance_fingerprint TEXT NOT NULL,
  effort TEXT NOT NULL,
  encoder_version INTEGER NOT NULL CHECK (encoder_version >= 0),
  bytes INTEGER NOT NULL CHECK (bytes >= 0),
  program_version TEXT NOT NULL,
  written TEXT NOT NULL
) STRICT;
INSERT INTO written_file VALUES(1,'out.gguf','cc33','bb22','default',3,1000000,'1','2026-01-02T03:04:05Z');
CREATE INDEX measurement_by_tensor ON measurement (tensor_id);
CREATE INDEX recipe_by_run ON recipe (run_id);
CREATE VIEW measured AS
SELECT run.run_id, tensor.name AS tensor, tensor.role, tensor.layer, tensor.source_format,
       measurement.rows_sampled, error.format, error.nmse, error.standard_error, error.bias_share, error.seconds,
       run.effort, run.encoder_version, run.sampling, run.metric, run.unit,
       importance.name AS importance, importance.fingerprint AS importance_fingerprint
FROM error
JOIN measurement ON measurement.run_id = error.run_id AND measurement.tensor_id = error.tensor_id
JOIN tensor ON tensor.tensor_id = error.tensor_id
JOIN run ON run.run_id = error.run_id
LEFT JOIN importance ON importance.importance_id = run.importance_id;
CREATE VIEW best AS
SELECT run_id, tensor, role, layer, source_format, rows_sampled, format, nmse, standard_error, bias_share, seconds,
       effort, encoder_version, sampling, metric, unit, importance, importance_fingerprint
FROM (SELECT measured.*,
             row_number() OVER (PARTITION BY tensor, format, unit, metric, importance_fingerprint
                                ORDER BY nmse, run_id) AS place
      FROM measured)
WHERE place = 1;
CREATE VIEW progress AS
SELECT run.run_id, run.effort, run.unit, importance.name AS importance,
       (SELECT count(*) FROM measurement WHERE measurement.run_id = run.run_id) AS tensors,
       (SELECT count(*) FROM error WHERE error.run_id = run.run_id) AS errors,
       (SELECT total(seconds) FROM error WHERE error.run_id = run.run_id) AS seconds,
       run.started, run.finished
FROM run
LEFT JOIN importance ON importance.importance_id = run.importance_id;
CREATE UNIQUE INDEX recipe_by_content ON recipe (run_id, fingerprint) WHERE fingerprint <> '';
COMMIT;
