use super::*;

#[test]
fn the_topic_comes_from_the_path() {
    assert_eq!(topic("/projects/p/topics/t"), "projects/p/topics/t");
    assert_eq!(topic("/push/projects/p/topics/a%2Bb/more"), "projects/p/topics/a+b");
    for path in ["", "/", "/projects/p", "/projects//topics/t", "/projects/p/topics/", "/topics/t"] {
        assert_eq!(topic(path), "", "{path}");
    }
}
