"""The store: what one data directory keeps, and every way to write, read and look after it.

A commit goes into the journal, one SQLite database. From time to time the archive rolls: it writes the pending rows of
the journal as Parquet files, called parts, and the journal lists these parts in its manifest. Readers take the listed
parts and the pending rows together, so they see every row exactly once.

    DIR/.lock                                            one process writes a data directory at a time
    DIR/journal.db                                       stream states, pending rows, manifest, alarms, counters
    DIR/journal.db-commit                                the witness: number and digest of the last commit
    DIR/archive/<kind>/date=YYYY-MM-DD/part-N.parquet    the parts
    DIR/archive/.staging/                                files that are not yet in place
    DIR/snapshots/<name>/                                hard links to the parts of one moment

Read the modules in this order:

    schema      kinds of rows, their columns and keys, and the records that the other modules exchange
    database    the SQLite file: lock, tables, seals, opening, reading, and what an error means
    witness     the small file that says which commit was the last
    journal     the commit point, and everything else that is ever written into the database
    parts       Parquet files that appear whole or not at all
    archive     pending rows -> parts: roll, and append for rows that come from files
    read        rows back from parts and journal, without a lock
    swap        exchanges the files of one day in one step
    compact     merges small parts, prunes old days
    check       what an archive holds, and whether all of it is intact
    snapshot    keeps the parts of one moment under a name
"""
