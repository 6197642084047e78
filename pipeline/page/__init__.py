"""The live page: look, understand, label. It stands above the service and takes part in it as one companion.

    live loop --HandOver (bounded, lossy)--> Plant --ticks--> EventStream --> browsers
                                               ^-- api: asks the plant, the archive, the labels and the registry

* `live`    what the page knows of the running service, and the hand-over from the loop
* `views`   what the API says, as plain functions
* `versions` model versions, the gate's verdict, promote and roll back
* `training` the training that somebody starts on the page, in a process of its own
* `audit`   who changed what and when
* `api`     the HTTP application: routes, errors, the event stream, files of the page
* `guard`   who may ask for what
* `openapi` the description of the API
* `static`  the page itself: ES modules and CSS, no build step
"""
