"""A page by Flask: `flask_app.py PORT`, or for a WSGI server `flask_app:app`."""

import sys

import flask

app = flask.Flask(__name__)


@app.route("/")
def page():
    return flask.render_template_string("{{ word }}", word="alive")


if __name__ == "__main__":
    app.run("127.0.0.1", int(sys.argv[1]))
